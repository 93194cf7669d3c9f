"""Other rewards' ways of doing it beside ours, on the same weights and frames.

    python -m benchmarks.peers
    python -m benchmarks.peers --only torchrl     # where torchrl is installed

Both sides take turns in one process on one thread; of several rounds the best counts,
in CPU time. Their side is what their code does, called where a package has it
(TorchRL's transforms), and otherwise its arithmetic written out below. Where both sides
compute the same number they are compared before they are timed.
`benchmarks.peers_memory` measures the memory of the same pairs.

- vlm-rm: CLIP's preparation by torchvision, embedding and projection.
- TorchRL's R3M: its transform, against the same network as an encoder here.
- GenReward's windows: 16 frames of the last 128 steps, encoded anew for every score,
  against the default reading, which scores every step as well.
- VIPER and Diffusion Reward: the window's frames are encoded anew at each step, where
  ours remembers their codes. The prior's own pass is the same on both sides.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.compare import MODELS
from benchmarks.overhead import table
from benchmarks.step import cpu_by_turns
from genreward_wrappers.core import Session

TASK = "metaworld/drawer-close"
COUNTS = (1, 8, 64)
Film = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pair:
    """Two ways to score one step of N environments.

    Attributes:
        theirs: Scores the newest of the frames (T, N, 64, 64, 3).
        ours: The same.
        same: Whether they give the same number.
    """

    theirs: Callable[[Film], Any]
    ours: Callable[[Film], Any]
    same: bool = True


def vlm_rm() -> Pair:
    """The reward of a frame from its embedding, whole pictures at a time."""
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize

    from genreward_wrappers import load_encoder
    from genreward_wrappers.envs.stages import sentences
    from genreward_wrappers.rewards.peers.vlm_rm import VLMRM

    clip: Any = load_encoder("embedded:clip-64", device="cpu")
    begins, *_, ends = sentences(TASK)
    reward = VLMRM(ends, begins, encoder=clip)
    how = clip.pictures
    prepare = Compose(
        [
            Resize(how.size, InterpolationMode.BICUBIC, antialias=True),
            Normalize(how.mean, how.std),
        ]
    )
    goal, way = reward._goal, reward._way
    assert way is not None

    @torch.inference_mode()
    def theirs(film: Film) -> Any:
        frames = torch.from_numpy(film[-1]).permute(0, 3, 1, 2)
        embedded = clip.model.encode_image(prepare(frames.float() / 255))
        off = embedded / embedded.norm(dim=-1, keepdim=True) - goal
        projection = torch.outer(way, way)
        mixed = reward.alpha * projection + (1 - reward.alpha) * torch.eye(len(way))
        return (1 - (off @ mixed.T).norm(dim=-1) ** 2 / 2).numpy()

    return Pair(theirs, lambda film: reward.values(film[-1]))


def torchrl() -> Pair:
    """R3M's network with random weights: its features of the newest frames."""
    from tensordict import TensorDict
    from torchrl.envs.transforms import R3MTransform

    from genreward_wrappers.encoders.images import ImageEncoder, Pictures

    torch.manual_seed(0)
    transform = R3MTransform("resnet18", in_keys=["pixels"], download=False)
    transform.eval()
    network = next(m for m in transform.modules() if type(m).__name__ == "ResNet")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    class Net(ImageEncoder):
        """The same network as an encoder."""

        def _embed(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = network(images)
            return found

    looks = Pictures((244, 244), "squash", None, "bilinear", mean, std)
    encoder = Net(looks, (512,), device="cpu")

    @torch.inference_mode()
    def theirs(film: Film) -> Any:
        pixels = torch.from_numpy(film[-1])
        data = TensorDict({"pixels": pixels}, [len(pixels)])
        return transform._step(data, data)["r3m_vec"].numpy()

    # Their frames are scaled without antialiasing or rounding.
    return Pair(theirs, lambda film: encoder.encode_images(film[-1]).numpy(), False)


def windows() -> Pair:
    """A score of every step: the last window anew, or one frame."""
    from genreward_wrappers import load_encoder, load_goal
    from genreward_wrappers.rewards.video_level import VideoLevel

    encoder = load_encoder("embedded:video-vae-64", device="cpu")
    goal = load_goal(TASK)
    clip = goal.videos[:1, np.linspace(0, 16, 16).astype(int)]
    latent = encoder.encode_clips(clip).flatten(1)
    model = VideoLevel(goal, encoder, horizon=10**6, length=None)

    def theirs(film: Film) -> Any:
        frames = np.ascontiguousarray(film.swapaxes(0, 1))
        agent = encoder.encode_clips(frames).flatten(1)
        return torch.nn.functional.cosine_similarity(agent, latent).numpy()

    return Pair(theirs, _stepping(model), same=False)


def viper() -> Pair:
    """Log p of the newest frame given the window before it."""
    from genreward_wrappers.rewards.peers.viper import Viper

    reward = Viper(str(MODELS / "viper-64.safetensors"), device="cpu")
    prior = reward.prior

    @torch.no_grad()
    def theirs(film: Film) -> Any:
        codes = _codes(prior, film)
        return prior.net.log_likelihood(codes, 1).sum(1).numpy()

    return Pair(theirs, _stepping(reward))


def diffusion_reward() -> Pair:
    """The certainty about the newest frame given those before it."""
    from genreward_wrappers.rewards.peers.diffusion_reward import DiffusionReward

    path = str(MODELS / "diffusion-reward-64.safetensors")
    reward = DiffusionReward(path, device="cpu")

    def theirs(film: Film) -> Any:
        frames = reward.prior.net.config.context
        codes = _codes(reward.prior, film[-frames:])
        count = film.shape[1]
        seeds = np.zeros(count, np.uint64)
        return reward._certainty(codes, seeds, np.zeros(count, np.int64))

    # The noise of a chain follows from the step's number, which differs.
    return Pair(theirs, _stepping(reward), same=False)


def _codes(prior: Any, film: Film) -> torch.Tensor:
    """(N, T, positions) all of the frames anew."""
    flat = prior.codec.encode(film.swapaxes(0, 1).reshape(-1, *film.shape[2:]))
    codes: torch.Tensor = flat.reshape(film.shape[1], len(film), -1).cpu()
    return codes


def _stepping(model: Any) -> Callable[[Film], Any]:
    """One step of a session that has seen the film but for its last frames."""
    known: dict[int, Any] = {}

    def run(film: Film) -> Any:
        count = film.shape[1]
        no, actions = np.zeros(count, np.bool_), np.zeros((count, 1))
        if count not in known:
            session = Session([model], count)
            session.begin(film[0], seed=0)
            for frames in film[1:-1]:
                session.score(actions, frames, no, no)
            known[count] = session, session.snapshot()
        session, before = known[count]
        session.restore(before)
        return session.score(actions, film[-1], no, no)[model.name].value

    return run


PAIRS: dict[str, Callable[[], Pair]] = {
    "vlm-rm": vlm_rm,
    "torchrl": torchrl,
    "windows": windows,
    "viper": viper,
    "diffusion-reward": diffusion_reward,
}


def film_of(count: int) -> Film:
    """(16, N, 64, 64, 3) of the embedded goals, with noise."""
    from genreward_wrappers import load_goal

    videos, rng = load_goal(TASK).videos, np.random.default_rng(0)
    film = videos[np.arange(count) % len(videos), :16].swapaxes(0, 1)
    noise = rng.integers(-20, 21, film.shape)
    return np.clip(film.astype(int) + noise, 0, 255).astype(np.uint8)


def measure(
    name: str, counts: tuple[int, ...], rounds: int
) -> list[tuple[int, float, float]]:
    """(N, their seconds a step, ours).

    Raises:
        AssertionError: They were to be the same number, and are not.
    """
    pair, found = PAIRS[name](), []
    for count in counts:
        film = film_of(count)
        if pair.same:
            theirs, ours = pair.theirs(film), pair.ours(film)
            np.testing.assert_allclose(theirs, ours, rtol=2e-3, atol=2e-3)
        runs = {"theirs": partial(pair.theirs, film), "ours": partial(pair.ours, film)}
        spent = cpu_by_turns(runs, rounds, 1 if count > 1 else 4)
        found.append((count, spent["theirs"], spent["ours"]))
    return found


def peers_table(names: list[str], rounds: int, counts: tuple[int, ...] = COUNTS) -> str:
    """The table; what is not installed says so."""
    rows = []
    for name in names:
        try:
            found = measure(name, counts, rounds)
        except ImportError as error:
            rows.append([name, "", f"{error.name} is not installed", "", "", ""])
            continue
        for count, theirs, ours in found:
            cells = [f"{1e3 * theirs:.2f}", f"{1e3 * ours:.2f}"]
            rate = f"{count / ours:.0f}"
            rows.append([name, str(count), *cells, rate, f"{theirs / ours:.2f}x"])
    head = ["peer", "N", "theirs, ms a step", "ours", "ours, frames a second", "ratio"]
    return table("Peers, CPU time, one thread, the same weights and frames", head, rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    peers_table(args.only, args.rounds)


if __name__ == "__main__":
    main()
