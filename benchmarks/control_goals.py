r"""What goals of dm_control's tasks are worth: recorded and generated, side by side.

    python -m benchmarks.control_goals --work runs/control
    python -m benchmarks.control_goals --work runs/control --goals FOLDER \
        --named recorded
    python -m benchmarks.control_goals --work runs/control --rewards generated \
        --named own

`genreward evaluate` has no test episodes of these tasks, which have no success either.
Here a controller plays them well, with noise on it worse, and some actions are drawn at
random; what dm_control pays says how well. Lines go to ``results/control_goals.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import genreward_wrappers  # noqa: F401  (registers the environments)
from genreward_wrappers import load_goal
from genreward_wrappers.data.episodes import Episode
from genreward_wrappers.evaluate.judge.bootstrap import roc_auc
from genreward_wrappers.evaluate.judge.judged_rewards import Maker
from genreward_wrappers.goal_pipeline.collect import collect
from genreward_wrappers.relabel.fold import score_episodes
from genreward_wrappers.training.forward_backward.judge import rank_correlation

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results/control_goals.jsonl"
HORIZON, FRAMES = 1000, 65
#: Test episodes begin at two million; every policy has its own.
SEED, APART = 2_000_000, 1_000
CONTROLLERS = {
    "dmc/cartpole-swingup": ("swing_up", 16),
    "dmc/reacher-easy": ("point", 16),
    "dmc/walker-walk": ("walk", 6),
}


def episodes(env_id: str, work: Path) -> dict[str, list[Episode]]:
    """Test episodes, played well, badly and at random."""
    name, count = CONTROLLERS[env_id]
    policies = {
        "well": f"controllers:{name}",
        "badly": f"controllers:{name}_badly",
        "random": "random",
    }
    return {
        kind: [
            Episode.load(path)
            for path in collect(
                env_id,
                work / env_id.replace("/", "--"),
                policy=policy,
                episodes=count,
                seed=SEED + APART * i,
                frames=FRAMES,
            )
        ]
        for i, (kind, policy) in enumerate(policies.items())
    }


def judge(goal: Any, reward: str, played: dict[str, list[Episode]]) -> dict[str, Any]:
    """How a reward orders the episodes, beside what the environment pays for them."""
    (contestant,) = Maker(goal, HORIZON, FRAMES, "cpu").make(reward)
    flat = [episode for some in played.values() for episode in some]
    kinds = np.array([kind for kind, some in played.items() for _ in some])
    scores = score_episodes(contestant.parts[0][0], flat)
    means = np.array([np.nanmean(one) for one in scores])
    own = np.array([episode.rewards["env"].sum() for episode in flat])

    def auc(good: str, bad: str) -> float:
        among = np.isin(kinds, [good, bad])
        won = kinds[among] == good
        return float(roc_auc(means[among], won)(np.ones((1, len(won))))[0])

    return {
        "rank": round(rank_correlation(means, own), 3),
        "well over random": round(auc("well", "random"), 3),
        "well over badly": round(auc("well", "badly"), 3),
        **{kind: round(float(means[kinds == kind].mean()), 3) for kind in played},
        **{f"{k} own": round(float(own[kinds == k].mean()), 1) for k in played},
    }


def main() -> None:
    """Judges the goals of the three tasks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="a folder")
    parser.add_argument("--goals", type=Path, help="a folder; the embedded otherwise")
    parser.add_argument("--named", default="embedded", help="what the goals are")
    parser.add_argument("--rewards", nargs="+", default=["video", "pixels"])
    args = parser.parse_args()
    sys.path.append(str(ROOT / "scripts"))
    for env_id in CONTROLLERS:
        name = f"{env_id.replace('/', '--')}.safetensors"
        goal = load_goal(env_id if args.goals is None else str(args.goals / name))
        played = episodes(env_id, args.work)
        with RESULTS.open("a") as file:
            for reward in args.rewards:
                found = judge(goal, reward, played)
                row = {"task": env_id, "goals": args.named, "reward": reward, **found}
                file.write(json.dumps(row) + "\n")
                print(json.dumps(row))


if __name__ == "__main__":
    main()
