"""What arguments may be, in one wording."""

import math

import numpy as np
import pytest

from genreward_wrappers import checks


def test_what_is_fine_passes_and_has_its_type():
    assert checks.whole("n", np.int64(3)) == 3
    assert isinstance(checks.number("x", np.float32(0.5)), float)
    assert [checks.share("x", value) for value in (0, 1, 0.5)] == [0, 1, 0.5]
    checks.at_least(2, a=2, b=None)
    checks.positive(a=1e-9, b=None)
    checks.not_negative(a=0, b=None)
    checks.one_of({"one": 1, "two": 2}, name="two")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: checks.whole("n", True),
            "n=True: expected a whole number, at least 1",
        ),
        (lambda: checks.whole("n", 2.0), "n=2.0: expected a whole number, at least 1"),
        (lambda: checks.whole("n", 1, 2), "n=1: expected a whole number, at least 2"),
        (lambda: checks.number("x", "1"), "x='1': expected a finite number"),
        (lambda: checks.share("x", math.nan), "x=nan: expected a number from 0 to 1"),
        (lambda: checks.at_least(1, a=1, b=0), "b=0: expected at least 1"),
        (lambda: checks.positive(a=math.nan), "a=nan: expected a positive number"),
        (lambda: checks.positive(a=math.inf), "a=inf: expected a positive number"),
        (lambda: checks.not_negative(a=-1), "a=-1: expected a number from 0"),
        (lambda: checks.one_of("ab", x=None), "x=None: expected one of 'a', 'b'"),
    ],
)
def test_what_is_not_is_quoted(check, message):
    with pytest.raises(ValueError, match=message):
        check()
