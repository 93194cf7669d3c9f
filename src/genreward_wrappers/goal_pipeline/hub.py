"""Goal bundles to and from the Hugging Face Hub.

A branch on the Hub is a name that moves: the same address may give another reward
tomorrow. What is pulled is told by its commit, and what was pushed too. Nothing here
asks the network where huggingface_hub is offline (``HF_HUB_OFFLINE=1``): pulling finds
what was pulled before, and pushing says that it cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from genreward_wrappers.data.contact_sheet import contact_sheet, png_of
from genreward_wrappers.data.files import hash_file, write_atomic
from genreward_wrappers.data.goals import (
    GoalBundle,
    GoalError,
    HubAddress,
    download,
    import_hub,
)
from genreward_wrappers.goal_pipeline.card import mark, readme

README = "README.md"

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came, and from where exactly.

    Attributes:
        goal: The bundle, checked.
        address: What was asked for.
        commit: The commit it was taken from; empty where the cache does not say.
        before: The commit that the same name stood for when it was last pulled here;
            empty if it never was.
    """

    goal: GoalBundle
    address: HubAddress
    commit: str
    before: str = ""

    @property
    def advice(self) -> str:
        """What to know about the revision; empty if it is a commit."""
        name = self.address.revision
        if name is not None and _COMMIT.fullmatch(name):
            return ""
        called = f"{name!r}" if name else "no revision, which is the newest one,"
        if not self.commit:
            return f"{self.address} names {called} and may change: name a commit"
        pinned = self.address._replace(revision=self.commit)
        moved = ""
        if self.before and self.before != self.commit:
            moved = f" It has moved since it was pulled here last, from {self.before}."
        return (
            f"{self.address} names {called} and may change. Taken was commit "
            f"{self.commit}.{moved} To get the same again: {pinned}"
        )


def pull(
    address: str, output: str | PathLike[str], *, sha256: str | None = None
) -> Pulled:
    """Fetches a bundle, checks it, and writes it where one wants it, byte for byte.

    Args:
        address: ``hf://owner/repo/file.safetensors[@revision]``; a commit as the
            revision gives the same file for ever.
        output: The file to write.
        sha256: What the file's is expected to be; None takes any.

    Raises:
        GoalError: There is no such repository, revision or file, or no network, or the
            file is no goal bundle, or not the expected one.
    """
    where = HubAddress.parse(address)
    known = import_hub().try_to_load_from_cache(
        where.repo, where.file, revision=where.revision
    )
    before = _commit_of(Path(known)) if isinstance(known, str) else ""
    found = download(where)
    if sha256 is not None:
        _check_sha256(where, found, sha256)
    goal = GoalBundle.load(found)
    write_atomic(Path(output), found.read_bytes())
    return Pulled(goal, where, _commit_of(found), before)


def push(
    path: str | PathLike[str],
    repo: str,
    *,
    revision: str | None = None,
    private: bool = False,
) -> HubAddress:
    """Uploads a bundle with its card and its contact sheet, in one commit.

    What arrived is fetched again and compared. The repository and the branch are made
    if they are not there. A README.md that is
    there already, for another bundle or written by hand, stays: the card is then called
    after the bundle.

    Args:
        path: The bundle; it keeps its name.
        repo: ``owner/repo``.
        revision: The branch; None is the main one.
        private: Whether nobody else may see the repository.

    Returns:
        The address, with the commit as its revision.

    Raises:
        GoalError: No bundle, no network, no leave to write there, a repository that is
            public and should be private, or another file arrived.
    """
    path = Path(path)
    goal = GoalBundle.load(path)
    if not re.fullmatch(r"[^/@\s]+/[^/@\s]+", repo):
        raise GoalError(f"{repo!r} is no repository: expected owner/repo")
    if revision is not None and _COMMIT.fullmatch(revision):
        raise GoalError(
            f"revision={revision!r} is a commit, and those cannot be added to: name a "
            "branch"
        )
    if "@" in path.name:
        # What comes after it would be read as a revision.
        raise GoalError(f"{path.name!r} has an @, which an address cannot have")
    hub = import_hub()
    api = hub.HfApi()
    picture = f"{path.stem}.png"
    card = readme(goal, repo, path.name, picture)
    with _explained(f"push {path} to {repo}"):
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            # It was there before, and stays as it was.
            raise GoalError(f"{repo} is public: nothing was uploaded. Make it private")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        named = _card_name(repo, revision, path)
        files = {
            path.name: path.read_bytes(),
            picture: png_of(contact_sheet(goal)),
            named: card.encode(),
        }
        done = api.create_commit(
            repo,
            [hub.CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=f"Goal bundle {path.name}",
            revision=revision,
        )
    address = HubAddress(repo, path.name, done.oid)
    _check_sha256(address, download(address), hash_file(path))
    return address


def _check_sha256(address: HubAddress, found: Path, wanted: str) -> None:
    sha256 = hash_file(found)
    if sha256 != wanted.strip().lower():
        raise GoalError(f"{address} has the sha256 {sha256}, expected {wanted}")


def _card_name(repo: str, revision: str | None, path: Path) -> str:
    """README.md, unless that is of something else."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        old = Path(import_hub().hf_hub_download(repo, README, revision=revision))
    except LocalEntryNotFoundError:
        # It could not be looked up, which is another matter than that there is none.
        raise
    except EntryNotFoundError:
        return README
    ours = mark(path.name) in old.read_text(encoding="utf-8")
    return README if ours else f"{path.stem}.md"


def _commit_of(path: Path) -> str:
    """The commit in the path of a file in huggingface_hub's cache."""
    # .../snapshots/<commit>/<file>
    for folder, name in zip(path.parts, path.parts[1:], strict=False):
        if folder == "snapshots" and _COMMIT.fullmatch(name):
            return name
    return ""


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns the hub's errors into one that says what to do."""
    try:
        yield
    except GoalError:
        raise
    except Exception as error:
        raise GoalError(
            f"could not {what} ({type(error).__name__}: {error}). Pushing needs a "
            "network, without HF_HUB_OFFLINE, and a token that may write there: "
            "`hf auth login`, or HF_TOKEN"
        ) from error
