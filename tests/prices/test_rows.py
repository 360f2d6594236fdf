"""The sentence that refuses a row; expected texts are written out."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.prices.rows import Rows, is_missing

ROWS = Rows(
    "prices.csv",
    np.array([1, 2, 4]),
    pd.Series(["2020-01-01", "2020-01-02 00:00:00", "a " * 30]),
)


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (
            [0, 1, 0],
            "prices.csv, row 2 after the header (date 2020-01-02): is odd, it is '7'",
        ),
        (
            [1, 0, 1],
            "prices.csv, row 1 after the header (date 2020-01-01): is odd, it is 'x'; 1 more row(s) likewise",
        ),
    ],
)
def test_the_first_row_at_fault_is_named_and_the_others_counted(bad, expected):
    cells = pd.Series(["x", "7", "y"])

    with pytest.raises(ValueError, match="is odd") as refusal:
        ROWS.refuse(np.array(bad, dtype=bool), "is odd", cells)

    assert str(refusal.value) == expected


def test_rows_without_a_header_are_counted_from_the_first():
    headless = Rows("prices.csv", ROWS.number, ROWS.date, has_header=False)

    with pytest.raises(ValueError, match=r"^prices\.csv, row 4 \(date (a ){19}a \): is odd$"):
        headless.refuse(np.array([False, False, True]), "is odd")


def test_no_row_at_fault_is_refused_by_nothing():
    ROWS.refuse(np.zeros(3, dtype=bool), "is odd")


def test_rows_are_taken_by_positions_and_by_masks():
    for wanted in (np.array([2, 0]), np.array([True, False, True])):
        assert set(ROWS.take(wanted).number) == {1, 4}


def test_words_for_no_value_are_missing_and_numbers_are_not():
    words = pd.Series(["", " NULL ", "-", "n/a", "0", "no", None])

    assert is_missing(words).tolist() == [True, True, True, True, False, False, True]
    assert is_missing(pd.Series([0.0, np.nan])).tolist() == [False, True]
