"""Scores recordings with rewards, some of them side by side on one device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from genreward_wrappers.checks import at_least
from genreward_wrappers.core import Float32, RewardModel, Score, check_model, weigh
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.data.views import names_in
from genreward_wrappers.progress import OnProgress, no_progress
from genreward_wrappers.relabel.fold import Scores, fold
from genreward_wrappers.relabel.recordings import Recording
from genreward_wrappers.rewards.facts import Built, Facts, Part
from genreward_wrappers.rewards.registry import reward_options
from genreward_wrappers.rewards.spec import BALANCED, ENV, OURS, RewardSpec
from genreward_wrappers.rewards.views import View, view_shares

if TYPE_CHECKING:
    from genreward_wrappers.encoders.base import VideoEncoder

Read = RewardModel[Any] | RewardSpec
Reward = Read | Mapping[str, Any] | str

#: The rewards, and the episodes that they are to score, with their indices.
Group = tuple[list[Built], list[tuple[int, Episode]]]

#: How many episodes are scored side by side where that changes no score.
BATCH = 64

#: Frames that a shared encoder remembers: those of one step, before and after.
REMEMBERED = 4 * BATCH


@dataclass(frozen=True)
class Scored:
    """What a reward pays for one episode of T steps.

    Attributes:
        rewards: (T,) what a wrapper would have paid: the weighted sum.
        parts: (T,) the score of each model by its name, NaN where none was due.
    """

    rewards: NDArray[np.float64]
    parts: Mapping[str, Float32]

    @property
    def due(self) -> NDArray[np.bool_]:
        """(T,) at which steps any model had something to say."""
        if not self.parts:
            return np.ones(len(self.rewards), np.bool_)
        said = np.isfinite(np.stack([*self.parts.values()]))
        return np.asarray(said.any(0))


def score(
    recordings: Iterable[Recording], reward: Reward, **options: Any
) -> list[Scored]:
    """Scores recordings with one reward.

    Args:
        recordings: From `find_recordings`, `from_frames` and their like.
        reward: A reward model, or what `RewardSpec` reads: text, JSON or a spec.
        **options: Those of `Scorer`.

    Example:
        >>> import numpy as np
        >>> from genreward_wrappers.testing import Brightness
        >>> from genreward_wrappers.relabel import from_frames, score
        >>> film = np.zeros((3, 8, 8, 3), np.uint8)
        >>> film[2:] = 255
        >>> (paid,) = score(from_frames([film]), Brightness())
        >>> paid.rewards
        array([0., 1.])
    """
    found = dict(Scorer([reward], **options).run(list(recordings)))
    return [found[index][0] for index in sorted(found)]


@dataclass
class Scorer:
    """Rewards that recordings are scored with.

    Attributes:
        rewards: Each a reward model, or what `RewardSpec` reads.
        goal: What they are compared with, as `load_goal` takes it; None is the goal
            that is embedded for the environment's id.
        env_id: The environment's id; None is what the recordings say.
        horizon: Steps of an episode, as a wrapper would know them. None is the
            environment's time limit, where the recordings name an environment that is
            known here, and otherwise each episode's own length.
        action_space: Of the environment, to check nets against.
        device: Where the models run.
        dtype: What encoders compute in.
        batch: How many episodes are scored at once. None is 64, but 1 on a CPU
            unless the encoder is a control: there a learned encoder's last bits depend
            on how many frames it sees at once, and with 1 the rewards are those of a
            single environment to the last bit.
        view_weights: What each of several cameras counts for, as for a wrapper.
        seed: What random numbers are drawn from, where an episode does not say which
            seed it was reset with: episode i of a dataset has the seed plus i.
    """

    rewards: Sequence[Reward]
    goal: Any = None
    env_id: str | None = None
    horizon: int | None = None
    action_space: gym.Space[Any] | None = None
    device: str = "auto"
    dtype: str | None = None
    batch: int | None = None
    view_weights: Mapping[str, float] | None = None
    seed: int = 0
    _read: list[Read] = field(init=False, repr=False)
    _built: dict[Any, list[Built]] = field(default_factory=dict, repr=False)
    _encoders: dict[str, VideoEncoder] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        at_least(1, horizon=self.horizon, batch=self.batch)
        self._read = [read_reward(reward) for reward in self.rewards]

    def run(
        self, recordings: Sequence[Recording], on_progress: OnProgress = no_progress
    ) -> Iterator[tuple[int, list[Scored]]]:
        """Scores recordings, and reads no more of them at a time than are scored.

        Yields:
            The index of a recording, and what each reward pays for it; in another order
            where episodes of one length or size are scored together.

        Raises:
            ValueError: A recording cannot be read, or lacks what a reward looks at;
                the message begins with its name.
        """
        done = 0
        for built, group in self._groups(recordings):
            yield from self._score(group, recordings, built)
            done += len(group)
            on_progress(done, len(recordings))

    def _groups(self, recordings: Sequence[Recording]) -> Iterator[Group]:
        """Episodes that can be scored side by side, and their rewards."""
        most = max(BATCH, self.batch or 0)
        waiting: dict[Any, Group] = {}
        for index, recording in enumerate(recordings):
            episode = _read_episode(recording)
            where = self._where(recording, episode)
            key = (*where, episode.frames.shape[1:], episode.actions.shape[1:])
            built = self._rewards(recording, *where)
            _, group = waiting.setdefault(key, (built, []))
            group.append((index, episode))
            if len(group) == self._at_once(built):
                yield waiting.pop(key)
            elif sum(len(group) for _, group in waiting.values()) == most:
                # However unlike they are, no more of them are in memory.
                yield from waiting.values()
                waiting.clear()
        yield from waiting.values()

    def provenance(self) -> dict[str, Any]:
        """What the scores are of, as JSON, once something has been scored.

        Rewards, the hashes of the goals that they were compared with, the horizons, and
        the version of this package.
        """
        models = [
            [part.model for built in every for part in built.parts]
            for every in self._built.values()
        ]
        goals = {m.goal.digest for own in models for m in own if m.goal is not None}
        return {
            "rewards": [_described(reward) for reward in self._read],
            "goals": sorted(goals),
            "horizons": sorted({horizon for _, horizon, _ in self._built}),
            "version": version("genreward-wrappers"),
        }

    def prepare(self, recording: Recording) -> None:
        """Makes the rewards for a recording, so that `provenance` knows the goals."""
        self._rewards(recording, *self._where(recording, _read_episode(recording)))

    def _rewards(
        self, recording: Recording, env_id: str | None, horizon: int, camera: str
    ) -> list[Built]:
        """The rewards for episodes of an environment, a length, and some cameras."""
        key = (env_id, horizon, camera)
        if key not in self._built:
            names = names_in(camera)
            space = self.action_space or recording.about.get("action_space")
            facts = Facts(
                env_id=env_id,
                horizon=horizon,
                action_space=space,
                device=self.device,
                dtype=self.dtype,
                goal=self.goal,
                bind=self._bind,
                views=view_shares(names, self.view_weights) if names else {},
            )
            self._built[key] = [_build(reward, facts) for reward in self._read]
        return self._built[key]

    def _where(
        self, recording: Recording, episode: Episode
    ) -> tuple[str | None, int, str]:
        """The environment's id, the horizon of an episode, and its cameras."""
        about = recording.about
        env_id = self.env_id or about.get("env_id") or episode.info.get("env_id")
        horizon = self.horizon or about.get("horizon") or _time_limit(env_id)
        if horizon is None and not any(map(_keeps_time, self._read)):
            # Whatever it is, it is the same for all.
            horizon = 1
        camera = recording.about.get("camera") or episode.info.get("camera") or ""
        return env_id or None, int(horizon or len(episode)), camera

    def _at_once(self, built: Sequence[Built]) -> int:
        if self.batch is not None:
            return self.batch
        models = [part.model for each in built for part in each.parts]
        return BATCH if all(map(_same_in_batches, models)) else 1

    def _bind(self, goal: Any, name: Any) -> VideoEncoder:
        """The encoder for a goal, which all rewards on it share."""
        from genreward_wrappers.encoders.base import VideoEncoder
        from genreward_wrappers.encoders.binding import bind_encoder
        from genreward_wrappers.encoders.caching import Memo

        if isinstance(name, VideoEncoder):
            return name
        digest = goal.digest if isinstance(goal, GoalBundle) else ""
        key = f"{name} {goal.encoder.get('source', '')} {digest}"
        if key not in self._encoders:
            encoder = bind_encoder(goal, name, device=self.device, dtype=self.dtype)
            self._encoders[key] = (
                encoder if encoder.control else Memo(encoder, REMEMBERED)
            )
        return self._encoders[key]

    def _score(
        self,
        part: Sequence[tuple[int, Episode]],
        recordings: Sequence[Recording],
        built: Sequence[Built],
    ) -> Iterator[tuple[int, list[Scored]]]:
        episodes = [episode for _, episode in part]
        names = [recordings[index].name for index, _ in part]
        numbers = {index: recordings[index].number for index, _ in part}
        seeds = [int(e.info.get("seed", self.seed + numbers[i])) for i, e in part]
        models = [[one.model for one in each.parts] for each in built]
        try:
            found = fold(models, episodes, seeds)
        except (ValueError, FloatingPointError) as error:
            raise type(error)(f"{', '.join(names[:3])}: {error}") from error
        for row, (index, episode) in enumerate(part):
            yield (
                index,
                [
                    _paid(each, scores[row], episode, names[row])
                    for each, scores in zip(built, found, strict=True)
                ],
            )


def read_reward(reward: Reward) -> Read:
    """A reward model, or a reward as a value, however it is written."""
    if isinstance(reward, RewardSpec):
        return reward
    if isinstance(reward, str):
        return RewardSpec.parse(reward)
    if isinstance(reward, Mapping):
        return RewardSpec.from_json(reward)
    check_model(reward)
    return reward


def _build(reward: Read, facts: Facts) -> Built:
    if isinstance(reward, RewardModel):
        return Built(tuple(Part(part, weight) for part, weight in reward.parts))
    if reward.weights.get(ENV) == BALANCED:
        raise ValueError(
            f"reward {reward.name!r}: what a {BALANCED} weight is, random actions in "
            "the environment say: give env_weight as a number"
        )
    return reward.build(facts)


def _read_episode(recording: Recording) -> Episode:
    try:
        episode = recording.read()
    except (ValueError, OSError) as error:
        said = str(error)
        if recording.name in said:
            raise
        raise type(error)(f"{recording.name}: {said}") from error
    if not len(episode):
        raise ValueError(f"{recording.name}: an episode has at least 1 step, got none")
    return episode


def _paid(built: Built, scores: Scores, episode: Episode, name: str) -> Scored:
    """The weighted sum, as a wrapper's."""
    weight = float(built.env_weight)
    own = episode.rewards.get(ENV)
    if weight and own is None:
        raise ValueError(
            f"{name}: the environment's own reward has the weight {weight:g}, and was "
            "not recorded: give env_weight=0"
        )
    counted = {
        key: Score(np.nan_to_num(values, nan=0.0), np.isfinite(values))
        for key, values in scores.items()
    }
    weights = {part.model.name: part.weight for part in built.parts}
    environment = np.zeros(len(episode)) if own is None else own
    return Scored(weigh(environment, weight, counted, weights), scores)


def _time_limit(env_id: str | None) -> int | None:
    """That of a registered environment."""
    if not env_id:
        return None
    try:
        return gym.spec(env_id).max_episode_steps
    except (gym.error.Error, ImportError):
        return None


def _keeps_time(reward: Read) -> bool:
    """Whether it matters to a reward how long an episode is."""
    if isinstance(reward, RewardModel):
        return False
    return reward.name in OURS or (
        reward.name != ENV and "horizon" in reward_options(reward.name)
    )


def _same_in_batches(model: RewardModel[Any]) -> bool:
    """Whether its last bits are the same however many episodes it sees at once."""
    from genreward_wrappers.encoders.base import VideoEncoder
    from genreward_wrappers.rewards.video_level import VideoLevel

    model = model.model if isinstance(model, View) else model
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, VideoEncoder) and encoder.device.type != "cpu":
        return True
    return isinstance(model, VideoLevel) and model.encoder.control


def _described(reward: Read) -> Mapping[str, Any]:
    """A reward as JSON."""
    if isinstance(reward, RewardModel):
        return {"model": reward.identity.strip()}
    return reward.to_json()
