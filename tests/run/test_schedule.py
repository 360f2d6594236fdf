"""Numbers that may fall over a run, as the command line reads them."""

import pytest

from market_regimes.run.schedule import schedule


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3e-4", 0.0003), (2, 2.0), ("lin_0.0003", "lin_0.0003"), ("lin_1e-5", "lin_1e-5")],
)
def test_a_number_is_a_number_and_a_falling_one_stays_as_it_is_written(value, expected):
    read = schedule(value)

    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize("value", ["lin_", "lin_x", "exp_0.1", "", True])
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011  # float's own words
        schedule(value)
