"""Bundles to and from the Hub: a double for the network, and the network not there."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

from genreward_wrappers import GoalBundle, GoalError, load_goal
from genreward_wrappers.cli.main import main
from genreward_wrappers.data.contact_sheet import contact_sheet
from genreward_wrappers.data.files import hash_file
from genreward_wrappers.data.goals import HubAddress
from genreward_wrappers.goal_pipeline.card import forbidding, licences, readme
from genreward_wrappers.goal_pipeline.hub import pull, push


def refused(kind, message):
    """One of the hub's errors, with as much of an answer as it asks for."""
    answer = SimpleNamespace(headers={}, request=None, status_code=404)
    return kind(message, response=answer)


class Hub:
    """Repositories, branches and commits in memory, and a cache in a folder.

    It stands where huggingface_hub asks the network, and is as strict: what is not
    there is an error of the kind that the hub gives.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.online = True
        self.kept: dict[tuple[str, str | None], str] = {}

    # As HfApi has them

    def create_repo(self, repo, *, private, exist_ok):
        self._reach()
        if repo in self.branches:
            assert exist_ok
            return
        self.private[repo] = private
        self.branches[repo] = {"main": self._commit({})}

    def repo_info(self, repo):
        return SimpleNamespace(private=self.private[repo])

    def create_branch(self, repo, *, branch, exist_ok):
        assert exist_ok
        branches = self.branches[repo]
        branches.setdefault(branch, branches["main"])

    def create_commit(self, repo, operations, *, commit_message, revision):
        assert commit_message
        branch = revision or "main"
        files = dict(self.commits[self.branches[repo][branch]])
        for operation in operations:
            files[operation.path_in_repo] = operation.path_or_fileobj
        self.branches[repo][branch] = self._commit(files)
        return SimpleNamespace(oid=self.branches[repo][branch])

    # As huggingface_hub has them

    def hf_hub_download(self, repo, file, *, revision=None):
        if self.online:
            if repo not in self.branches:
                raise refused(RepositoryNotFoundError, f"no repository {repo}")
            name = revision or "main"
            commit = self.branches[repo].get(name, name)
            if commit not in self.commits:
                raise refused(RevisionNotFoundError, f"no revision {name}")
            if file not in self.commits[commit]:
                raise refused(RemoteEntryNotFoundError, f"no file {file}")
            self.kept[repo, revision] = commit
            path = self._path(repo, commit, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.commits[commit][file])
        found = self.try_to_load_from_cache(repo, file, revision=revision)
        if found is None:
            raise LocalEntryNotFoundError("outgoing traffic has been disabled")
        return found

    def try_to_load_from_cache(self, repo, file, *, revision=None):
        commit = self.kept.get((repo, revision), revision)
        path = self._path(repo, str(commit), file)
        return str(path) if path.exists() else None

    def _path(self, repo, commit, file):
        folder = "models--" + repo.replace("/", "--")
        return self.cache / folder / "snapshots" / commit / file

    def _commit(self, files):
        name = f"{len(self.commits) + 1:040x}"
        self.commits[name] = files
        return name

    def _reach(self):
        if not self.online:
            raise OfflineModeIsEnabled("offline mode is enabled")

    def files(self, repo, branch="main"):
        return self.commits[self.branches[repo][branch]]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    double = Hub(tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: double)
    for name in ("hf_hub_download", "try_to_load_from_cache"):
        monkeypatch.setattr(huggingface_hub, name, getattr(double, name))
    return double


@pytest.fixture
def path(goal, tmp_path):
    goal.with_(license="MIT").save(tmp_path / "goal.safetensors")
    return tmp_path / "goal.safetensors"


# There and back


def test_there_and_back(hub, path, tmp_path):
    address = push(path, "me/goals")
    assert address == HubAddress(
        "me/goals", path.name, hub.branches["me/goals"]["main"]
    )
    files = hub.files("me/goals")
    assert sorted(files) == ["README.md", "goal.png", "goal.safetensors"]
    # One commit on the empty one, so that nobody sees a half of it.
    assert len(hub.commits) == 2
    sheet = np.asarray(Image.open(io.BytesIO(files["goal.png"])))
    np.testing.assert_array_equal(sheet, contact_sheet(GoalBundle.load(path)))
    pulled = pull(str(address), tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()
    assert pulled.goal == GoalBundle.load(path)
    assert pulled.commit == address.revision
    assert pulled.advice == "", "a commit does not move"
    assert load_goal(str(address)) == pulled.goal


def test_pulled_byte_for_byte(hub, goal, path, tmp_path, monkeypatch):
    """Also what another version of zlib has packed."""
    same = path.read_bytes()
    pack = zlib.compress
    with monkeypatch.context() as other:
        other.setattr(zlib, "compress", lambda data, level: pack(data, 1))
        goal.with_(license="MIT").save(path)
    assert path.read_bytes() != same
    pull(str(push(path, "me/goals")), tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()


def test_a_file_of_another_hash_is_not_written(hub, path, tmp_path):
    address, out = str(push(path, "me/goals")), tmp_path / "back.safetensors"
    sha256 = hash_file(path)
    with pytest.raises(GoalError, match=f"has the sha256 {sha256}, expected 00"):
        pull(address, out, sha256="0" * 64)
    assert not out.exists()
    assert main(["pull", address, "--output", str(out), "--sha256", sha256]) == 0
    assert hash_file(out) == sha256


def test_what_arrived_is_looked_at(hub, path, monkeypatch):
    def torn(repo, operations, **options):
        for operation in operations:
            operation.path_or_fileobj = operation.path_or_fileobj[:-1]
        return commit(repo, operations, **options)

    commit = hub.create_commit
    monkeypatch.setattr(hub, "create_commit", torn)
    with pytest.raises(GoalError, match="has the sha256"):
        push(path, "me/goals")


def test_branches(hub, path, tmp_path):
    address = push(path, "me/goals", revision="v2")
    assert "goal.safetensors" not in hub.files("me/goals")
    assert "goal.safetensors" in hub.files("me/goals", "v2")
    pulled = pull("hf://me/goals/goal.safetensors@v2", tmp_path / "b.safetensors")
    assert pulled.commit == address.revision
    assert "names 'v2' and may change" in pulled.advice
    with pytest.raises(GoalError, match="is a commit.*name a branch"):
        push(path, "me/goals", revision=address.revision)


def test_a_revision_that_moved(hub, path, goal, tmp_path):
    first = push(path, "me/goals")
    out = tmp_path / "out.safetensors"
    named = "hf://me/goals/goal.safetensors@main"
    advice = pull(named, out).advice
    assert f"Taken was commit {first.revision}." in advice
    assert f"hf://me/goals/goal.safetensors@{first.revision}" in advice
    assert "has moved" not in advice
    assert "has moved" not in pull(named, out).advice, "nor has it since"
    goal.with_(license="MIT", prompt="another").save(path)
    second = push(path, "me/goals")
    pulled = pull(named, out)
    assert pulled.goal.prompt == "another"
    assert f"Taken was commit {second.revision}." in pulled.advice
    assert f"has moved since it was pulled here last, from {first.revision}" in (
        pulled.advice
    )
    # The pinned one is what it was.
    assert pull(str(first), out).goal.prompt == goal.prompt
    assert "the newest one" in pull(named.removesuffix("@main"), out).advice


def test_offline_takes_what_was_pulled_before(hub, path, tmp_path):
    address = push(path, "me/goals")
    pull(str(address), tmp_path / "1.safetensors")
    hub.online = False
    again = pull(str(address), tmp_path / "2.safetensors")
    assert (again.commit, again.advice) == (address.revision, "")
    with pytest.raises(GoalError, match="could not get hf://me/goals/other.*its path"):
        pull("hf://me/goals/other.safetensors", tmp_path / "3.safetensors")
    with pytest.raises(GoalError, match="could not push.*HF_HUB_OFFLINE"):
        push(path, "me/goals")
    assert not (tmp_path / "3.safetensors").exists()


def test_private(hub, path):
    push(path, "me/secret", private=True)
    assert hub.private["me/secret"]
    push(path, "me/secret", private=True)
    hub.create_repo("me/public", private=False, exist_ok=True)
    with pytest.raises(GoalError, match="me/public is public: nothing was uploaded"):
        push(path, "me/public", private=True)
    assert hub.files("me/public") == {}
    push(path, "me/public")
    assert not hub.private["me/public"]


def test_the_card_does_not_overwrite_another(hub, path, goal):
    push(path, "me/goals")
    goal.with_(prompt="changed").save(path)
    push(path, "me/goals")
    assert b"| prompt | changed |" in hub.files("me/goals")["README.md"]
    other = path.with_name("other.safetensors")
    goal.with_(prompt="the other").save(other)
    push(other, "me/goals")
    files = hub.files("me/goals")
    assert b"| prompt | changed |" in files["README.md"]
    assert b"| prompt | the other |" in files["other.md"]
    hub.create_repo("me/mine", private=False, exist_ok=True)
    by_hand = b'load_goal("hf://me/mine/goal.safetensors@main")'
    hub.branches["me/mine"]["main"] = hub._commit({"README.md": by_hand})
    push(path, "me/mine")
    assert hub.files("me/mine")["README.md"] == by_hand
    assert b"| prompt | changed |" in hub.files("me/mine")["goal.md"]


def test_a_card_that_cannot_be_looked_up_is_not_overwritten(hub, path, monkeypatch):
    def lost(*_, **__):
        raise LocalEntryNotFoundError("the connection broke")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lost)
    with pytest.raises(GoalError, match="could not push.*the connection broke"):
        push(path, "me/goals")
    assert hub.files("me/goals") == {}


# What is not there


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/none/goal.safetensors", "RepositoryNotFoundError: no repository"),
        ("hf://me/goals/goal.safetensors@v9", "RevisionNotFoundError: no revision v9"),
        ("hf://me/goals/none.safetensors", "no file none.safetensors"),
        ("hf://me/goals", 'expected "hf://owner/repo/file.safetensors"'),
        ("me/goals/goal.safetensors", "is no address of a goal"),
        ("hf://me/goals/README.md", "no safetensors file"),
    ],
)
def test_nothing_to_pull(hub, path, tmp_path, capsys, address, message):
    push(path, "me/goals")
    out = tmp_path / "out.safetensors"
    assert main(["pull", address, "--output", str(out)]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("genreward pull: ")
    assert not out.exists()


@pytest.mark.parametrize(
    ("file", "repo", "message"),
    [
        ("none.safetensors", "me/goals", "no goal bundle at"),
        ("goal.safetensors", "goals", "expected owner/repo"),
        ("goal.safetensors", "hf://me/goals", "expected owner/repo"),
        ("goal@1.safetensors", "me/goals", "has an @"),
    ],
)
def test_nothing_to_push(hub, path, capsys, file, repo, message):
    GoalBundle.load(path).save(path.with_name("goal@1.safetensors"))
    assert main(["push", str(path.with_name(file)), repo]) == 1
    assert message in capsys.readouterr().err
    assert hub.commits == {}


def test_truly_offline(path, tmp_path, capsys):
    """huggingface_hub itself, with HF_HUB_OFFLINE=1 as all tests have it."""
    assert main(["push", str(path), "me/goals", "--private"]) == 1
    error = capsys.readouterr().err
    assert "OfflineModeIsEnabled" in error
    assert "without HF_HUB_OFFLINE" in error
    out = tmp_path / "out.safetensors"
    assert main(["pull", "hf://me/goals/goal.safetensors@main", "--output", str(out)])
    error = capsys.readouterr().err
    assert "could not get hf://me/goals/goal.safetensors@main" in error
    assert "give its path" in error
    assert not out.exists()


def test_what_is_called_exists():
    """The double takes what is passed to it; huggingface_hub has to as well."""
    import inspect

    given = {
        "create_repo": {"private", "exist_ok"},
        "create_branch": {"branch", "exist_ok"},
        "create_commit": {"operations", "commit_message", "revision"},
        "repo_info": {"repo_id"},
    }
    for name, expected in given.items():
        known = inspect.signature(getattr(huggingface_hub.HfApi, name)).parameters
        assert expected <= set(known), name
    for name in ("hf_hub_download", "try_to_load_from_cache"):
        assert (
            "revision" in inspect.signature(getattr(huggingface_hub, name)).parameters
        )
    assert hasattr(huggingface_hub.hf_api.CommitInfo, "__dataclass_fields__")
    assert "oid" in huggingface_hub.hf_api.CommitInfo.__dataclass_fields__


# The card


def card_of(goal):
    return readme(goal, "me/goals", "goal.safetensors", "goal.png")


def test_what_the_card_says(goal):
    full = goal.with_(
        camera="corner2",
        key_frames=(3, 32, 0),
        license="Apache-2.0",
        generator="a generator",
        encoder={"source": "embedded:video-vae-64", "fingerprint": {"sha256": "ab12"}},
        nets={"a": np.ones(2, np.float32)},
        nets_config={"statistics": {"mean": 0.25, "time_rank": 0.875}},
        provenance=(
            {"step": "generate", "seed": 7},
            {"step": "other", "curves": [[0.1] * 33] * 3},
        ),
    )
    text = card_of(full)
    assert text.startswith(
        "---\nlibrary_name: genreward-wrappers\nlicense: apache-2.0\n"
    )
    for part in (
        "| environment | toy/square |",
        "| camera | corner2 |",
        "| prompt | a square crosses |",
        "| videos | 3 of 33 frames, 32x32 |",
        "| key frames | 3, 32, 0 |",
        "| made by | a generator |",
        "| licence | Apache-2.0 |",
        "| encoder | embedded:video-vae-64 ab12 |",
        "| forward-backward nets | yes |",
        "| time\\_rank | 0.875 |",
        f"| sha256 | `{full.digest}` |",
        "](goal.png)",
        'load_goal("hf://me/goals/goal.safetensors@<commit>")',
        '"seed": 7',
        '"curves": "3 videos of 33 frames"',
    ):
        assert part in text, part
    assert "Not for commercial use" not in text


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc by nc sa", True),
        ("Stability Non-Commercial Research Community License", True),
        ("non commercial", True),
        ("for research only", True),
        ("research purposes only", True),
        ("not for commercial use", True),
        ("MIT", False),
        ("Apache-2.0", False),
        ("CC-BY-4.0", False),
        ("NCSA", False),
        ("Incorporated Inc", False),
        ("CogVideoX License", False),
    ],
)
def test_licences_that_forbid_commercial_use(goal, licence, forbids):
    by_itself = goal.with_(license=licence)
    # What the generator came under binds the videos as well.
    step = {"step": "generate", "models": [{"id": "a/b", "license": licence}]}
    of_the_model = goal.with_(license="MIT", provenance=(step,))
    assert licences(of_the_model) == list(dict.fromkeys(["MIT", licence]))
    for bundle in (by_itself, of_the_model):
        assert forbidding(bundle) == [licence] * forbids
        text = card_of(bundle)
        banner = text.find("> **Not for commercial use.**")
        assert (0 < banner < text.find("A goal bundle of")) == forbids


def test_the_commands_say_so_too(hub, goal, path, tmp_path, capsys):
    goal.with_(license="CC-BY-NC-4.0").save(path)
    assert main(["push", str(path), "me/goals"]) == 0
    printed = capsys.readouterr().out
    assert "not for commercial use, and its card says so: CC-BY-NC-4.0" in printed
    commit = hub.branches["me/goals"]["main"]
    assert f"hf://me/goals/goal.safetensors@{commit}" in printed
    out = str(tmp_path / "out.safetensors")
    address = "hf://me/goals/goal.safetensors@main"
    assert main(["pull", address, "--output", out]) == 0
    captured = capsys.readouterr()
    assert "not for commercial use: CC-BY-NC-4.0" in captured.out
    assert f"Taken was commit {commit}" in captured.err


def test_no_licence(goal):
    text = card_of(goal)
    assert "**No licence is stated.**" in text
    assert "license:" not in text.split("---")[1]
    other = card_of(goal.with_(license="My Own: terms\n1"))
    assert 'license: other\nlicense_name: "my-own-terms-1"\n' in other
    assert "No licence is stated" not in other


def test_texts_cannot_break_the_card(goal):
    nasty = "a | b\n---\n<img src=x> [c](d) `e` ```"
    text = card_of(goal.with_(prompt=nasty, license=nasty, env_id=nasty))
    assert "<img" not in text.split("## Provenance")[0]
    assert (
        "| prompt | a \\| b --- &lt;img src=x> \\[c\\](d) \\`e\\` \\`\\`\\` |" in text
    )
    assert text.count("\n---\n") == 1, "the front matter ends once"
    # The block of the steps holds what is in them.
    step = {"step": "x", "said": "```\n# Heading"}
    quoted = card_of(goal.with_(provenance=(step,)))
    assert quoted.count("```") == 4
