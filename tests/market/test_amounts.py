"""Numbers as files write them; the values are read by hand."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.market.amounts import convention_of, numbers_of

NAN = np.nan


@pytest.mark.parametrize(
    ("cell", "point", "comma"),
    [
        ("1234.5", 1234.5, NAN),
        ("1,234.5", 1234.5, NAN),
        ("1,234,567", 1234567.0, NAN),
        ("1,234", 1234.0, 1.234),
        ("1,5", NAN, 1.5),
        ("1.234,5", NAN, 1234.5),
        ("1.234", 1.234, 1234.0),
        ("1.234.567", NAN, 1234567.0),
        ("12,34.5", NAN, NAN),
        ("0,5", NAN, 0.5),
        ("1234", 1234.0, 1234.0),
        ("$1,234.50", 1234.5, NAN),
        ("1.234,50 €", NAN, 1234.5),
        ("US$ 3", 3.0, 3.0),
        ("1 234.5", 1234.5, NAN),
        ("1\u00a0234,5", NAN, 1234.5),
        ("1'234.5", 1234.5, NAN),
        ("-2.5", -2.5, NAN),
        ("1e3", 1000.0, 1000.0),
        ('="3"', 3.0, 3.0),
        ("5%", NAN, NAN),
        ("5M", NAN, NAN),
        ("True", NAN, NAN),
        ("inf", NAN, NAN),
        ("0x10", NAN, NAN),
        ("n/a", NAN, NAN),
        ("", NAN, NAN),
        ("12-31", NAN, NAN),
    ],
)
def test_cells_by_either_convention(cell, point, comma):
    column = pd.Series([cell, "7"])
    np.testing.assert_array_equal(numbers_of(column, "."), [point, 7.0])
    np.testing.assert_array_equal(numbers_of(column, ","), [comma, 7.0])


def test_multiples_of_volumes():
    column = pd.Series(["1.5K", "2M", "0.25B", "1T", "3 %", "-", "7", "1,000K"])
    expected = [1500.0, 2e6, 2.5e8, 1e12, 3.0, NAN, 7.0, 1e6]
    np.testing.assert_array_equal(numbers_of(column, ".", multiples=True), expected)
    np.testing.assert_array_equal(numbers_of(pd.Series(["1,5M"]), ",", multiples=True), [1.5e6])


def test_columns_that_hold_no_text():
    np.testing.assert_array_equal(numbers_of(pd.Series([True, False]), "."), [NAN, NAN])
    np.testing.assert_array_equal(numbers_of(pd.Series(pd.to_datetime(["2020-01-01"])), "."), [NAN])
    np.testing.assert_array_equal(numbers_of(pd.Series([1, None], dtype="Int64"), "."), [1.0, NAN])
    np.testing.assert_array_equal(numbers_of(pd.Series([1.5, np.inf]), ","), [1.5, np.inf])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([["1", "2"]], "."),
        ([["1.5", "2.25"]], "."),
        ([["1,234.5", "2"]], "."),
        ([["1,234", "999.5"]], "."),
        ([["1,234", "999"], [0.5, 1.5]], "."),
        ([["1,234,567"], ["999"]], "."),
        ([["1,5"], ["1.234"]], ","),
        ([["1,234"], ["0,234"]], ","),
        ([["1,234"], ["1234,567"]], ","),
        ([["1.234.567"], ["1,234"]], ","),
        ([["1.234,5"]], ","),
    ],
)
def test_the_cells_of_all_columns_decide(columns, expected):
    columns = [pd.Series(cells) for cells in columns]
    assert convention_of("file", columns).decimal == expected
    assert convention_of("file", columns[::-1]).decimal == expected


def test_what_does_not_decide_is_refused():
    with pytest.raises(ValueError, match=r"file: 1,234 may be a thousand .*market\.decimal"):
        convention_of("file", [pd.Series(["1,234", "999"])])
    with pytest.raises(ValueError, match=r"file: 1,234\.5 has a decimal point and 1,5 a decimal comma"):
        convention_of("file", [pd.Series(["1,234.5", "999"]), pd.Series(["1,5"])])
    with pytest.raises(ValueError, match="one of the first rows a decimal comma"):
        convention_of("file", [pd.Series(["1,234.5", "999"]), pd.Series([1.5])], read_by=",")
    for decimal in (".", ","):
        assert convention_of("file", [pd.Series(["1,234", "999"])], decimal).decimal == decimal
