"""Chooses the key frame of each goal video: the one that fits the task's words best.

A model of images and texts scores every frame. With x_i the unit embedding of frame i
of T, g that of the prompt (several are averaged, and the mean brought back to unit
length) and b that of a baseline, where one is given::

    s_i = x_i . g                  the cosine of GenReward (CVPR 2026, arXiv 2512.00961)
    s_i = x_i . g - x_i . b        with a baseline, a text for the scene as it begins
    score_i = s_i - prior * d * (1 - i / (T - 1))

The key frame is the one with the highest score, the last of equal ones. A difference of
two cosines is the norm of g - b times the projection of x_i on the way from b to g, so
both ways to use a baseline choose the same frames. d is the standard deviation of s
over all frames of all videos: ``prior=1`` makes a first frame one deviation worse than
a last one, whatever the model's range of cosines.

Videos are ranked by the scores of their key frames, including the prior. The choice is
recorded as a step of the bundle's provenance, and `chosen` reads it back.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import not_negative
from genreward_wrappers.core import UInt8
from genreward_wrappers.data.files import plain, write_atomic
from genreward_wrappers.data.goals import GoalBundle, GoalError, load_goal
from genreward_wrappers.data.schema import Record, Whole, fault
from genreward_wrappers.encoders.base import VideoEncoder, encoder_card
from genreward_wrappers.encoders.caching import Memo
from genreward_wrappers.encoders.registry import load_encoder
from genreward_wrappers.encoders.texts import as_texts, mean_text, text_tower
from genreward_wrappers.extras import require
from genreward_wrappers.progress import OnProgress, no_progress

#: Small enough for a CPU. In published comparisons larger models judge better.
ENCODER = "open_clip:ViT-B-32/laion2b_s34b_b79k"

#: The name of the step in a bundle's provenance.
STEP = "select"

#: How many digits of its curves a bundle keeps.
DIGITS = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, and why.

    Attributes:
        curves: (C, T) the scores of all candidates' frames.
        key_frames: (C,) the best frame of each candidate.
        ranking: (C,) the candidates, best first.
        kept: Which candidates are in the bundle, in its order.
        prompts: The texts that frames were compared with.
        baseline: The texts that similarity to was subtracted; often none.
        encoder: The card of the model that compared them.
        prior: How much later frames were preferred.
        deviation: d in the formula.
    """

    curves: Floats
    key_frames: tuple[int, ...]
    ranking: tuple[int, ...]
    kept: tuple[int, ...]
    prompts: tuple[str, ...]
    baseline: tuple[str, ...]
    encoder: Mapping[str, Any]
    prior: float
    deviation: float

    @property
    def scores(self) -> Floats:
        """(C,) the scores of the candidates' key frames."""
        best: Floats = self.curves[np.arange(len(self.curves)), self.key_frames]
        return best

    def step(self) -> dict[str, Any]:
        """The step of the bundle's provenance."""
        return {
            "step": STEP,
            "prompts": list(self.prompts),
            "baseline": list(self.baseline),
            "encoder": dict(self.encoder),
            "prior": self.prior,
            "deviation": round(self.deviation, DIGITS + 2),
            "curves": [[round(v, DIGITS) for v in row] for row in self.curves.tolist()],
            "key_frames": list(self.key_frames),
            "ranking": list(self.ranking),
            "kept": list(self.kept),
        }


#: What `Selection.step` writes.
_STEP_WRITTEN = Record(
    {
        "curves": [[float]],
        **{name: [Whole()] for name in ("key_frames", "ranking", "kept")},
        **{name: [str] for name in ("prompts", "baseline")},
        "encoder": dict,
        **dict.fromkeys(("prior", "deviation"), float),
    },
    open=True,
)


def select(
    goal: GoalBundle | str | PathLike[str],
    encoder: VideoEncoder | str = ENCODER,
    *,
    prompts: str | Sequence[str] | None = None,
    baseline: str | Sequence[str] | None = None,
    prior: float = 0.0,
    keep: int | None = None,
    device: str = "auto",
    dtype: str | None = None,
    on_progress: OnProgress = no_progress,
) -> tuple[GoalBundle, Selection]:
    """Gives a goal the key frames that fit the task's words best.

    Its forward-backward nets are kept. The statistics of nets whose reward depends on
    the key frames are dropped, with a warning, if a key frame has changed.

    Args:
        goal: A bundle, or what `load_goal` takes.
        encoder: A model of images and texts, or what `load_encoder` takes.
        prompts: What the scene looks like when the task is done, in one or several
            wordings; None uses the bundle's prompt. A bundle without a prompt gets the
            first of these.
        baseline: What the scene looks like at the beginning, also in words; None
            subtracts nothing.
        prior: How much later frames are preferred; 0 is not at all.
        keep: How many of the best videos to keep; None keeps all. Their order stays.
        device: "auto", "cpu", "cuda" or "cuda:<index>".
        dtype: The type that the encoder computes in.
        on_progress: Called with how many videos are scored, and of how many.

    Returns:
        The new bundle, and how it was chosen.

    Raises:
        GoalError: There is no prompt, or there are fewer videos than ``keep``.
        ValueError: The encoder reads no texts, or prompts and baseline mean the same.

    Example:
        >>> goal, selection = select(
        ...     "candidates.safetensors", prompts="the drawer is open", keep=4
        ... )  # doctest: +SKIP
    """
    goal = load_goal(goal)
    texts = _prompts(goal, prompts)
    others = [] if baseline is None else as_texts(baseline, "baseline")
    count = len(goal.videos)
    most = count if keep is None else keep
    if not 1 <= most <= count:
        raise GoalError(
            f"keep={keep}: the goal has {count} videos, expected 1 to {count}"
        )
    not_negative(prior=prior)
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, device=device, dtype=dtype)
    similarity = _similarity(goal.videos, encoder, texts, others, on_progress)
    deviation = float(similarity.std())
    late = np.linspace(0, 1, similarity.shape[1])
    curves = similarity - prior * deviation * (1 - late)
    # The last of equal frames, as without a choice: some videos stand still.
    key_frames = (len(late) - 1 - curves[:, ::-1].argmax(1)).tolist()
    # The first of equal videos.
    ranking = np.argsort(-curves.max(1), kind="stable").tolist()
    kept = sorted(ranking[:most])
    found = Selection(
        curves=curves,
        key_frames=tuple(key_frames),
        ranking=tuple(ranking),
        kept=tuple(kept),
        prompts=tuple(texts),
        baseline=tuple(others),
        encoder=encoder_card(encoder),
        prior=float(prior),
        deviation=deviation,
    )
    kept_frames = tuple(key_frames[i] for i in kept)
    # With fewer videos the tuples differ in length.
    changed = kept_frames != goal.key_frames
    bundle = goal.with_(
        videos=goal.videos[kept],
        key_frames=kept_frames,
        prompt=goal.prompt or texts[0],
        nets_config=_nets_config(goal, changed),
        provenance=(*goal.provenance, found.step()),
    )
    return bundle, found


def chosen(goal: GoalBundle) -> Selection | None:
    """How a bundle's key frames were chosen; None if they were not, or have changed."""
    steps = [step for step in goal.provenance if step.get("step") == STEP]
    if not steps:
        return None
    # As JSON, where tuples are lists; anybody may have written it.
    step = plain(dict(steps[-1]))
    lists = ("curves", "key_frames", "kept")
    if fault(step, _STEP_WRITTEN) or not all(step[name] for name in lists):
        # A step of the same name that `select` did not write.
        return None
    count, scored = len(step["curves"]), len(step["curves"][0])
    if (
        {len(curve) for curve in step["curves"]} != {scored}
        or len(step["key_frames"]) != count
        or max(step["key_frames"]) >= scored
        or sorted(step["ranking"]) != [*range(count)]
        or max(step["kept"]) >= count
    ):
        return None
    found = Selection(
        curves=np.asarray(step["curves"], np.float64),
        key_frames=tuple(step["key_frames"]),
        ranking=tuple(step["ranking"]),
        kept=tuple(step["kept"]),
        prompts=tuple(step["prompts"]),
        baseline=tuple(step["baseline"]),
        encoder=step["encoder"],
        prior=step["prior"],
        deviation=step["deviation"],
    )
    frames = tuple(found.key_frames[i] for i in found.kept)
    # Others may have been chosen since, or the videos cut.
    current = frames == goal.key_frames and scored == goal.videos.shape[1]
    return found if current else None


def draw(
    path: str | PathLike[str], candidates: GoalBundle, selection: Selection
) -> None:
    """Draws every candidate's curve and its key frame.

    Args:
        path: The picture, in any format that matplotlib writes.
        candidates: The bundle that was chosen from.
        selection: What `select` returned with the new bundle.
    """
    make_figure = import_figure()
    if len(candidates.videos) != len(selection.curves):
        raise GoalError(
            f"the curves are of {len(selection.curves)} videos, {candidates!r} has "
            f"{len(candidates.videos)}"
        )
    count = len(selection.curves)
    figure = make_figure(figsize=(9, 1 + 1.5 * count), layout="constrained")
    what = " / ".join(selection.prompts)
    figure.suptitle(f"how well each frame fits: {what}", wrap=True)
    rows = figure.subplots(count, 2, squeeze=False, width_ratios=[5, 1])
    low, high = selection.curves.min(), selection.curves.max()
    margin = 0.1 * max(high - low, 10.0**-DIGITS)
    for i, (curve, picture) in enumerate(rows):
        key, score = selection.key_frames[i], selection.scores[i]
        curve.plot(selection.curves[i], color="C0" if i in selection.kept else "0.6")
        curve.axvline(key, color="C3", linestyle="--", linewidth=1)
        curve.plot([key], [score], "o", color="C3")
        curve.set_ylim(low - margin, high + margin)
        curve.set_ylabel("score")
        curve.grid(alpha=0.3)
        fate = "" if i in selection.kept else ", not kept"
        rank = selection.ranking.index(i) + 1
        curve.set_title(
            f"candidate {i}: frame {key}, {score:.{DIGITS}f}, rank {rank}{fate}",
            fontsize="medium",
            loc="left",
        )
        picture.imshow(candidates.videos[i, key])
        picture.set_axis_off()
    rows[-1][0].set_xlabel("frame")
    kind = Path(path).suffix.removeprefix(".") or "png"
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, dpi=110)
    write_atomic(Path(path), drawn.getvalue())


def import_figure() -> Any:
    """Matplotlib's `Figure`, or an error that names the extra."""
    purpose = "the picture of the curves needs matplotlib"
    return require("matplotlib.figure", "demo", purpose).Figure


def _prompts(goal: GoalBundle, prompts: str | Sequence[str] | None) -> list[str]:
    if prompts is not None:
        return as_texts(prompts, "prompts")
    if not goal.prompt.strip():
        raise GoalError(
            f"{goal!r} has no prompt, and none was given: describe the scene when the "
            'task is done, for example --prompt "the drawer is open"'
        )
    return [goal.prompt]


def _similarity(
    videos: UInt8,
    encoder: VideoEncoder,
    prompts: list[str],
    baseline: list[str],
    on_progress: Callable[[int, int], None],
) -> Floats:
    """(K, T) s in the formula."""
    tower = text_tower(encoder)
    direction = mean_text(tower, prompts).double().cpu().numpy()
    if baseline:
        direction = direction - mean_text(tower, baseline).double().cpu().numpy()
        if np.linalg.norm(direction) < 1e-6:
            raise ValueError(
                f"prompts={prompts} and baseline={baseline} have the same embedding: "
                "no frame is closer to one than to the other"
            )
    rows = []
    # Equal frames must score alike, and the rows of a batch are not rounded alike: each
    # frame is encoded once, and multiplied by itself.
    memo = Memo(encoder)
    on_progress(0, len(videos))
    for done, video in enumerate(videos, 1):
        images = memo.encode_images(video).flatten(1).double().cpu().numpy()
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        rows.append((images * direction).sum(1))
        on_progress(done, len(videos))
    similarity: Floats = np.stack(rows)
    if not np.isfinite(similarity).all():
        raise ValueError(f"{encoder!r} gives NaN for some frames: try dtype='float32'")
    return similarity


def _nets_config(goal: GoalBundle, changed: bool) -> dict[str, Any]:
    """The configuration of the nets without what is no longer true.

    F and B know no goal, so they stay. Their statistics belong to the reward F^T B(key
    frames) of particular key frames. Nets on states do not see the key frames: they use
    goal states that the bundle keeps with them.
    """
    config = dict(goal.nets_config)
    on_states = "goal_states" in config.get("input", {})
    if not changed or on_states or "statistics" not in config:
        return config
    del config["statistics"]
    warnings.warn(
        f"the key frames of {goal!r} have changed: its forward-backward nets stay, "
        "but the statistics that normalise their reward belonged to the old ones "
        'and are dropped. The frame-level reward works with form="value" or '
        'form="difference"; for form="normalised", the default, run `genreward '
        "train-fb` on the new bundle (choosing before training saves doing it twice)",
        UserWarning,
        stacklevel=3,
    )
    return config
