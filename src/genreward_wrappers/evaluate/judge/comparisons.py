"""Compares rewards with the environment's own, and with the goals of other tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.judge.bootstrap import Estimate, undefined
from genreward_wrappers.evaluate.judge.curves import ORDINARY
from genreward_wrappers.evaluate.judge.epic import canonical, distance
from genreward_wrappers.evaluate.judge.judged_rewards import Contestant, Maker
from genreward_wrappers.evaluate.judge.metrics import confusion
from genreward_wrappers.relabel.fold import score_episodes
from genreward_wrappers.rewards.frame_level import FrameLevel
from genreward_wrappers.rewards.video_level import VideoLevel

#: The number of steps that the EPIC distance is taken over, of states and actions that
#: it averages over, and of steps that are too few.
TRANSITIONS, COVERAGE, FEW_TRANSITIONS = 200, 8, 20


def epic_distance(one: Contestant, episodes: Sequence[Episode]) -> dict[str, Estimate]:
    """The EPIC distance to the environment's own reward, or why there is none."""
    if one.role != "reward" or not one.parts:
        return {}
    if one.why_not_markov:
        return {"epic_distance": undefined(0, f"refused: {one.why_not_markov}")}
    model = one.parts[0][0]
    assert isinstance(model, FrameLevel)

    def own(states: Any, actions: Any, next_states: Any) -> Any:
        return model.values(states, actions).astype(np.float64)

    states, actions, next_states, paid = _transitions(episodes, model.sees_states)
    if len(paid) < FEW_TRANSITIONS or paid.std() == 0:
        return {"epic_distance": undefined(len(paid), "no transitions that differ")}
    rng = np.random.default_rng(0)
    shaped = canonical(
        own,
        states,
        actions,
        next_states,
        states[rng.choice(len(states), COVERAGE)],
        actions[rng.choice(len(actions), COVERAGE)],
        model.nets.config.discount,
    )
    # What the environment would pay from other states is unknown. If its reward depends
    # on the action and on what comes of it, as Meta-World's does, its canonical form
    # equals it up to a constant.
    apart = distance(shaped, paid) if shaped.std() > 0 else 0.5**0.5
    return {"epic_distance": Estimate(apart, None, None, len(paid))}


def _transitions(
    episodes: Sequence[Episode], of_states: bool
) -> tuple[Any, Any, Any, Any]:
    """Transitions from all episodes that have frames (or states) on both sides."""
    found = []
    for episode in episodes:
        if "env" not in episode.rewards or episode.info["kind"] not in ORDINARY:
            continue
        seen: Any = episode.frames
        place = {int(step): i for i, step in enumerate(episode.frame_steps)}
        if of_states:
            if episode.states is None:
                continue
            seen, place = episode.states, {t: t for t in range(len(episode) + 1)}
        found += [
            (seen[place[t]], episode.actions[t], seen[place[t + 1]], episode, t)
            for t in range(len(episode))
            if t in place and t + 1 in place
        ]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(found))[:TRANSITIONS]
    some = [found[i] for i in chosen]
    if not some:
        none = np.zeros((0, 1, 1, 3), np.uint8)
        return none, np.zeros((0, 1)), none, np.zeros(0)
    before, actions, after = (np.stack([one[i] for one in some]) for i in range(3))
    paid = np.array([e.rewards["env"][t] for *_, e, t in some], np.float64)
    return before, actions, after, paid


def set_apart(
    episodes: Sequence[Episode], env_id: str
) -> tuple[list[Episode], dict[str, Episode]]:
    """The test episodes, and the first of each other task, which becomes its goal."""
    spare: dict[str, Episode] = {}
    tests = []
    for episode in episodes:
        task = str(episode.info.get("env_id", env_id))
        if episode.info["kind"] != "other-task":
            tests.append(episode)
        elif task != env_id and task not in spare:
            spare[task] = episode
        else:
            # What its own environment said about it does not hold here.
            never = np.zeros(len(episode), np.bool_)
            tests.append(replace(episode, rewards={}, success=never))
    return tests, spare


def confusion_between_tasks(
    maker: Maker,
    contestant: Contestant,
    tests: Sequence[Episode],
    spare: Mapping[str, Episode],
    env_id: str,
    even: Sequence[int],
) -> Mapping[str, Any] | None:
    """Each task's successes under each task's goal, by the mean score."""
    parts = contestant.parts
    if not spare or contestant.role == "sum" or len(parts) != 1:
        return None
    model = parts[0][0]
    if not isinstance(model, VideoLevel) or maker.goal is None:
        return None
    goals = {env_id: maker.goal} | {
        task: maker.goal.with_(
            # Other rewards also look at frames that are not evenly spread over time.
            videos=episode.frames[None, np.isin(episode.frame_steps, even)],
            key_frames=(),
            env_id=task,
            nets={},
        )
        for task, episode in spare.items()
    }
    performances: dict[str, list[Episode]] = {task: [] for task in goals}
    for episode in tests:
        if episode.info["kind"] in ("success", "other-task"):
            task = str(episode.info.get("env_id", env_id))
            performances.setdefault(task, []).append(episode)
    tasks = [task for task in goals if performances[task]]
    table = []
    for task in tasks:
        row = []
        for other in tasks:
            against = model.with_goal(goals[other])
            scores = score_episodes(against, performances[task])
            row.append(float(np.mean([np.nanmean(s) for s in scores])))
        table.append(row)
    diagonal, accuracy = confusion(np.array(table))
    return {
        "tasks": tasks,
        "goals": tasks,
        "matrix": table,
        "diagonal_minus_off": diagonal,
        "argmax_accuracy": accuracy,
    }
