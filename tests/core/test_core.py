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


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int64])
def test_a_model_may_use_the_array_of_its_scores_again(kind):
    class Counts(Before):
        values = np.zeros(2, kind)

        def step(self, memory, transition):
            self.values[:] = transition.steps
            return Score(self.values, transition.active), None

    session = Session([Counts()], 2)
    session.begin(frames(1, 2))
    first, second = (paid(session, frames(3, 4)) for _ in range(2))
    assert [first.tolist(), second.tolist()] == [[1, 1], [2, 2]]
    # Whether or not a row has nothing to say.
    third = paid(session, frames(3, 4), active=np.array([True, False]))
    assert third.tolist() == [3, 0]
    assert first.dtype == third.dtype == np.promote_types(kind, np.float32)


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


@pytest.mark.parametrize("seed", [2**64, 2**64 - 1, -1, [0, 2**80], [None, -3]])
def test_seeds_that_do_not_fit_are_quoted(seed):
    session = Session([Traveller()], 2)
    # Of the second row, where one seed is for all.
    wrong = seed if isinstance(seed, int) else seed[1]
    wrong = 2**64 if wrong == 2**64 - 1 else wrong
    with pytest.raises(ValueError, match=f"seed={wrong}: expected from 0 to"):
        session.begin(frames(1, 2), seed=seed)
    session.begin(frames(1, 2), seed=2**64 - 2)


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
    # A part of weight 0 is left out, whatever it holds.
    never = np.full(2, np.nan, np.float32)
    scores["c"] = Score(never, NO)
    again = weigh(never, 0.0, scores, {"a": 2.0, "b": -1.0, "c": 0.0})
    np.testing.assert_allclose(again, [2 - 0.5, 4 - 0.5])


def test_last_is_what_was_scored_and_stays_so():
    session = Session([Before()], 2)
    assert session.last is None
    session.begin(frames(10, 20))
    assert session.last is None
    buffer, actions = frames(30, 40), np.array([5.0, 6.0])
    ended = np.array([True, False])
    session.score(actions, buffer, ended, ~ended)
    buffer[:] = 0
    session.begin(frames(70, 80))
    last = session.last
    assert last.frames[:, 0, 0, 0].tolist() == [10, 20]
    assert last.next_frames[:, 0, 0, 0].tolist() == [30, 40]
    assert last.actions.tolist() == [5, 6]
    assert last.terminated.tolist() == [True, False]
    assert last.truncated.tolist() == [False, True]
    assert last.steps.tolist() == [1, 1]
    paid(session, frames(90, 91))
    assert session.last.frames[:, 0, 0, 0].tolist() == [70, 80]


class Since(Before):
    """Pays how much brighter it is than where its memory began, times a number."""

    def __init__(self, name, times=1):
        self.name, self.times = name, times

    def reset(self, memory, frames, mask, seeds):
        now = frames.mean((1, 2, 3)).astype(np.float32)
        return now if memory is None else np.where(mask, now, memory)

    def step(self, memory, transition):
        now = transition.next_frames.mean((1, 2, 3)).astype(np.float32)
        return Score(self.times * (now - memory), transition.active), memory


def test_a_model_is_put_in_place_of_its_namesake_and_begins_there():
    session = Session([Since("a"), Since("b"), Since("c")], 2)
    session.begin(frames(10, 20))
    paid(session, frames(30, 40))
    session.put(Since("b", times=2))
    assert [model.name for model in session.models] == ["a", "b", "c"]
    scores = session.score(np.zeros(2), frames(31, 50), NO, NO)
    assert scores["a"].value.tolist() == scores["c"].value.tolist() == [21, 30]
    # From this frame on, and not from the episode's first.
    assert scores["b"].value.tolist() == [2, 20]
    # An episode that begins later begins in all of them.
    session.begin(frames(100, 0), np.array([True, False]))
    scores = session.score(np.zeros(2), frames(101, 51), NO, NO)
    assert scores["a"].value.tolist() == [1, 31]
    assert scores["b"].value.tolist() == [2, 22]


@pytest.mark.parametrize("running", [True, False])
def test_a_model_with_a_new_name_is_put_beside_the_others(running):
    session = Session([Since("a")], 2)
    if running:
        session.begin(frames(0, 0))
        paid(session, frames(5, 5))
    session.put(Since("b"))
    if not running:
        session.begin(frames(5, 5))
    assert [model.name for model in session.models] == ["a", "b"]
    scores = session.score(np.zeros(2), frames(7, 8), NO, NO)
    assert list(scores) == ["a", "b"]
    assert scores["a"].value.tolist() == ([7, 8] if running else [2, 3])
    assert scores["b"].value.tolist() == [2, 3]


class Numbers(Before):
    """Pays the first of the environment's numbers before the action."""

    name, sees_states = "numbers", True

    def step(self, memory, transition):
        return Score(transition.states[:, 0].copy(), transition.active), None


def test_states_are_those_before_the_action():
    def of(*values):
        return np.array(values, np.float32)[:, None]

    assert Session([Brightness(), Numbers()], 2).sees_states
    assert not Session([Brightness()], 2).sees_states
    session, still = Session([Numbers()], 2), frames(0, 0)
    session.begin(still, states=of(1, 2))
    buffer = of(3, 4)
    assert paid(session, still, next_states=buffer).tolist() == [1, 2]
    # Environments may write into the same array.
    buffer[:] = 99
    assert paid(session, still, next_states=of(5, 6)).tolist() == [3, 4]
    assert session.last.states[:, 0].tolist() == [3, 4]
    # Rows outside the mask stay in their episode.
    session.begin(still, np.array([False, True]), states=of(7, 8))
    snapshot = session.snapshot()
    assert paid(session, still, next_states=of(9, 10)).tolist() == [5, 8]
    assert paid(session, still, next_states=of(0, 0)).tolist() == [9, 10]
    session.restore(snapshot)
    assert paid(session, still, next_states=of(0, 0)).tolist() == [5, 8]


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


class Duck:
    """Has what a reward model has, and is none."""

    name = "duck"

    def reset(self, memory, frames, mask, seeds):
        return ()

    def step(self, memory, transition):
        return Score(np.zeros(2, np.float32), np.ones(2, bool)), memory


class Peeks(Numbers):
    """Looks at a state of its own keeping, which crosses episodes and rows."""

    last = 0.0

    def step(self, memory, transition):
        value = transition.states[:, 0] + np.float32(self.last)
        self.last = float(transition.states.sum())
        return Score(value, transition.active), None


def test_what_is_no_reward_model_is_refused_by_name():
    for check in (lambda model: Session([model], 2), check_reward_model):
        with pytest.raises(TypeError, match=r"Duck is no RewardModel: a reward model"):
            check(Duck())
        with pytest.raises(TypeError, match="no name, no reset, no step; a reward"):
            check(3)

    class Half(RewardModel):
        name = "half"

        def reset(self, memory, frames, mask, seeds):
            return None

    with pytest.raises(TypeError, match="abstract.*step"):
        Half()

    class Nameless(Before):
        pass

    del Before.name
    try:
        with pytest.raises(TypeError, match="Nameless is no.*: it has no name"):
            Session([Nameless()], 2)
    finally:
        Before.name = "before"


def test_the_defaults_of_the_contract():
    model = Before()
    assert (model.sees_states, model.goal, model.stretch) == (False, None, None)
    assert model.notes(None) == {}
    assert model.wants(np.arange(3)).all()
    assert model.parts == ((model, 1.0),)
    assert model.identity == Before().identity != Brightness().identity


class Raises(Before):
    """Cannot do its third step, once."""

    name, fails = "raises", True

    def step(self, memory, transition):
        if self.fails and transition.steps[0] == 3:
            raise RuntimeError("out of memory")
        return super().step(memory, transition)


def test_a_model_that_raises_leaves_the_session_as_it_was():
    one, other = Raises(), Since("since")
    session = Session([other, one], 2)
    session.begin(frames(0, 0))
    for value in (1, 2):
        session.score(np.zeros(2), frames(value, value), NO, NO)
    before = session.snapshot()
    with pytest.raises(RuntimeError, match="out of memory"):
        session.score(np.zeros(2), frames(3, 3), NO, NO)
    assert session.snapshot() is before
    one.fails = False
    scores = session.score(np.zeros(2), frames(5, 5), NO, NO)
    assert scores["since"].value.tolist() == [5, 5]
    assert scores["raises"].value.tolist() == [2, 2]


def test_a_snapshot_of_other_models_is_refused():
    session, other = Session([Since("a")], 2), Session([Before()], 2)
    for one in (session, other):
        one.begin(frames(1, 1))
    with pytest.raises(ValueError, match="belongs to .*Since a.*Before bef"):
        other.restore(session.snapshot())


def test_states_that_are_missing_are_asked_for():
    session = Session([Numbers()], 2)
    with pytest.raises(ValueError, match=r"\['numbers'\] look at.*none came: pass"):
        session.begin(frames(0, 0))
    session.begin(frames(0, 0), states=np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="next_states= to score"):
        session.score(np.zeros(2), frames(1, 1), NO, NO)


def test_a_score_of_another_shape_is_named():
    class Scalar(Before):
        name = "scalar"

        def step(self, memory, transition):
            return Score(np.float32(1), transition.active), memory

    session = Session([Scalar()], 2)
    session.begin(frames(0, 0))
    with pytest.raises(ValueError, match=r"'scalar' returned a score of shapes \(\)"):
        session.score(np.zeros(2), frames(1, 1), NO, NO)


def test_models_that_see_states_can_be_checked():
    check_reward_model(Numbers(), size=(8, 8))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Peeks(), "otherwise alone|changed its old memory"),
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
