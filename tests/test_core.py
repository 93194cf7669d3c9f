"""The session itself, where no host stands in between."""

from __future__ import annotations

import numpy as np
import pytest

from genreward_wrappers.core import RewardModel, Score, Session, weigh
from genreward_wrappers.testing import Brightness, Traveller, check_reward_model

NO = np.zeros(2, bool)


class Before(RewardModel):
    """Pays the brightness of the frame before the action."""

    name = "before"

    def reset(self, memory, frames, mask, seeds):
        return None

    def step(self, memory, transition):
        value = transition.frames.mean((1, 2, 3)).astype(np.float32)
        return Score(value, transition.active), None


def frames(*values):
    return np.array(values, np.uint8)[:, None, None, None] + np.zeros(
        (len(values), 4, 4, 3), np.uint8
    )


def paid(session, next_frames, **kwargs):
    name = session.models[0].name
    return session.score(np.zeros(2), next_frames, NO, NO, **kwargs)[name].value


def test_a_reused_buffer_does_not_change_the_past():
    """Environments may write each frame into the same array."""
    session = Session([Before()], 2)
    buffer = frames(10, 20)
    session.begin(buffer)
    for value in (30, 50, 70):
        previous = buffer[:, 0, 0, 0].tolist()
        fresh = frames(value, value + 10)
        if value == 30:
            # The first frame, too, was copied.
            buffer[:] = 99
        np.testing.assert_array_equal(paid(session, fresh), previous)
        buffer = fresh
        snapshot = session.snapshot()
        buffer[:] = 0
        assert paid(session, frames(1, 1)).tolist() == [value, value + 10]
        session.restore(snapshot)
        buffer = frames(value, value + 10)


def test_rows_outside_the_mask_are_ignored_when_others_begin():
    session = Session([Before()], 2)
    session.begin(frames(10, 20))
    paid(session, frames(11, 21))
    session.begin(frames(200, 50), np.array([False, True]))
    assert paid(session, frames(0, 0)).tolist() == [11, 50]
    assert session.steps.tolist() == [2, 1]


def test_the_first_begin_starts_everyone():
    with pytest.raises(RuntimeError, match="must start every row"):
        Session([Brightness()], 2).begin(frames(1, 2), np.array([True, False]))


def test_seeds_must_be_one_a_row():
    session = Session([Traveller()], 2)
    with pytest.raises(ValueError, match=r"each of 2 environments, got 3"):
        session.begin(frames(1, 2), seed=[1, 2, 3])
    session.begin(frames(1, 2), seed=[7, None])


def test_a_row_has_the_same_seed_wherever_it_is():
    class Seeds(Before):
        name = "seeds"

        def reset(self, memory, frames, mask, seeds):
            self.seen = seeds.copy()

    model = Seeds()
    Session([model], 2).begin(frames(1, 2), seed=5)
    five, six = model.seen
    Session([model], 1).begin(frames(1), seed=6)
    assert model.seen[0] == six != five
    session = Session([model], 2)
    session.begin(frames(1, 2), seed=[6, 5])
    assert model.seen.tolist() == [six, five]
    session.begin(frames(1, 2), np.array([True, False]))
    assert model.seen[0] not in (five, six)


def test_wanted_asks_all_models_about_the_coming_step():
    class Every(Brightness):
        def __init__(self, n):
            self.n, self.name = n, f"every{n}"

        def wants(self, steps):
            return steps % self.n == 0

    session = Session([Every(2), Every(3)], 2)
    session.begin(frames(1, 1))
    wanted = []
    for _ in range(6):
        wanted.append(bool(session.wanted[0]))
        session.score(np.zeros(2), frames(1, 1), NO, NO)
    assert wanted == [False, True, True, True, False, True]


def test_weigh_is_a_weighted_sum():
    scores = {"a": Score(np.array([1, 2], np.float32), NO), "b": Score(NO + 0.5, NO)}
    total = weigh(np.array([10.0, 20.0]), 0.1, scores, {"a": 2.0, "b": -1.0})
    np.testing.assert_allclose(total, [1 + 2 - 0.5, 2 + 4 - 0.5])


class Leaks(Brightness):
    """Mixes rows, as a batch statistic would."""

    def step(self, memory, transition):
        score, memory = super().step(memory, transition)
        return score._replace(value=score.value - score.value.mean()), memory


class Counts(Brightness):
    """Writes to its memory in place."""

    def reset(self, memory, frames, mask, seeds):
        count = np.zeros(len(mask), np.float32) if memory is None else memory
        count[mask] = 0
        return count

    def step(self, memory, transition):
        memory += 1
        return Score(memory.copy(), transition.active), memory


class Forgets(Brightness):
    """Starts all rows anew when one begins."""

    def reset(self, memory, frames, mask, seeds):
        return frames.mean((1, 2, 3)).astype(np.float32)

    def step(self, memory, transition):
        return Score(memory, transition.active), memory


class Overpays(Brightness):
    """Is due in rows where nothing happened."""

    def step(self, memory, transition):
        score, _ = super().step(memory, transition)
        return Score(score.value, np.ones(len(score.value), bool)), memory


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Leaks(), "otherwise alone"),
        (Counts(), "changed its old memory"),
        (Forgets(), "otherwise alone"),
    ],
)
def test_check_reward_model_finds_broken_models(model, message):
    with pytest.raises(AssertionError, match=message):
        check_reward_model(model, size=(8, 8))


def test_a_session_silences_rows_in_which_nothing_happened():
    session = Session([Overpays()], 2)
    session.begin(frames(1, 1))
    active = np.array([True, False])
    score = session.score(np.zeros(2), frames(255, 255), NO, NO, active)["brightness"]
    assert score.value.tolist() == [1, 0]
    assert score.due.tolist() == [True, False]
