"""Numbers as files write them; the values are read by hand."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.prices.numerals import convention_of, numbers_of

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
        ("85,94,000", 8594000.0, NAN),
        ("1,25,000.5", 125000.5, NAN),
        ("1,00,00,000", 10000000.0, NAN),
        ("85 94 000", 8594000.0, 8594000.0),
        ("85,9,000", NAN, NAN),
        ("85,94,00", NAN, NAN),
        ("1'234'567", 1234567.0, 1234567.0),
        ("1'23", NAN, NAN),
        ("1 2", NAN, NAN),
        ("12 345 6", NAN, NAN),
        ("\u20b9 1,25,000", 125000.0, NAN),
        ("Rs. 5", 5.0, 5.0),
        ("(1,234.5)", -1234.5, NAN),
        ("($5)", -5.0, -5.0),
        ("-$5", -5.0, -5.0),
        ("\u22125", -5.0, -5.0),
        ("1 lakh", NAN, NAN),
        ("\u2014", NAN, NAN),
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


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("1.5k", 1500.0),
        ("1.5 K", 1500.0),
        ("2m", 2e6),
        ("2 mn", 2e6),
        ("3.25bn", 3.25e9),
        ("85.94 lakh", 85.94e5),
        ("85.94 Lakhs", 85.94e5),
        ("2 lacs", 2e5),
        ("1.2Cr", 1.2e7),
        ("1.2 crore", 1.2e7),
        ("1 234 M", 1.234e9),
        ("1,25,000 K", 1.25e8),
        ("(1.5K)", -1500.0),
        ("12 L", NAN),
        ("3MM", NAN),
        ("1.5kg", NAN),
        ("K", NAN),
        ("8x", NAN),
        ("1.2M shares", NAN),
    ],
)
def test_words_for_multiples_in_every_spelling(cell, value):
    column = pd.Series([cell, "7"])

    np.testing.assert_allclose(numbers_of(column, ".", multiples=True), [value, 7.0], rtol=1e-15)
    np.testing.assert_array_equal(numbers_of(column, "."), [NAN, 7.0])  # no price is 1.5 thousand


def test_a_volume_in_percent_is_none():
    np.testing.assert_array_equal(numbers_of(pd.Series(["5%", "7"]), ".", multiples=True, percent=False), [NAN, 7.0])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,234,567", "5"], ["commas separate thousands"]),
        (
            ["85,94,000", "5"],
            [
                "commas separate thousands",
                "commas separate lakhs and crores: 85,94,000 is 8594000",
            ],
        ),
        (["many,", "5,5,5"], []),
        (["1.5K", "-"], ["multiples: 1.5K is 1,500"]),
        (["0.5 lakh", "7"], ["multiples: 0.5lakh is 50,000"]),
        (["(7)", "7"], ["numbers in parentheses are negative"]),
        (["7 %", "7"], ["percent signs removed: 7% is 7"]),
    ],
)
def test_only_what_the_cells_hold_is_said(cells, expected):
    assert convention_of("file", [pd.Series(cells)], ".").notes.assumptions == tuple(expected)


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
