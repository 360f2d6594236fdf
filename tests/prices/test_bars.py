"""What is checked of the bars of a symbol, and what is refused, in one sentence with row and date."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from exports import csv_of, equals, make_bars, milliseconds, texts

from market_regimes.prices import ReadOptions, read_prices
from market_regimes.prices.bars import MIN_BARS, Bars, bars_before, check_bars
from market_regimes.prices.rows import Rows
from market_regimes.prices.symbols import SymbolRows
from market_regimes.prices.zones import Times


@pytest.fixture
def write_table(tmp_path, make_prices):
    """A function that writes a table, by default made-up prices, and gives its path."""

    def write_table(table=None, name="prices.csv", **columns):
        table = (make_prices() if table is None else table).assign(**columns)
        path = tmp_path / name
        table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)

        return str(path)

    return write_table


def rows_of(table, **changes):
    """A table of prices as the checks get it."""
    seconds = table["date"].to_numpy().astype("M8[s]")
    rows = Rows("prices.csv", np.arange(1, len(table) + 1), table["date"].astype(str))
    cells = {name: table[name] for name in table if name != "date"}
    numbers = {name: column.to_numpy(dtype=float) for name, column in cells.items()}

    return replace(SymbolRows("A", rows, Times(seconds, seconds), numbers, cells), **changes)


def test_good_bars_pass_as_they_are(make_prices):
    table = make_prices(100)
    bars = check_bars(rows_of(table))

    assert np.array_equal(bars.open, table["open"])
    assert np.array_equal(bars.close, table["close"])
    assert np.array_equal(bars.volume, table["volume"])
    assert (bars.bars_per_year, bars.zone, bars.fill) == (252.0, None, "open")
    assert bars.volatility_index is None
    assert bars.notes.assumptions == ()


def test_adjusted_prices_keep_the_ratio_of_open_and_close(make_prices):
    """Two shares for one at bar 50: raw prices halve, adjusted ones do not."""
    table = make_prices(100)
    split = table.assign(adjusted_close=table["close"] / 2)
    split.loc[50:, ["open", "high", "low", "close"]] /= 2
    bars = check_bars(rows_of(split))

    assert bars.close == pytest.approx((table["close"] / 2).to_numpy(), rel=1e-12)
    assert bars.open == pytest.approx((table["open"] / 2).to_numpy(), rel=1e-12)


def spoiled(table, row, column, value):
    table = table.astype({column: object})
    table.loc[row - 1, column] = value

    return table


BAD = {
    "close missing": (
        lambda t: t.drop(columns=["close", "low"]),
        r"lacks the column\(s\) close: it has date, open",
    ),
    "date missing": (lambda t: t.drop(columns="date"), r"lacks the column\(s\) date"),
    "far from its place": (
        lambda t: pd.concat([t[1:300], t[:1], t[300:]]),
        "row 300 .*2000-01-03.* the date of prices is far from those of the rows around it",
    ),
    "twice": (lambda t: pd.concat([t[:100], t[99:]]), r"row 101 .*2000-05-19.*same date"),
    "empty": (
        lambda t: spoiled(t, 17, "close", np.nan),
        r"row 17 after the header \(date 2000-01-25\): close of prices",
    ),
    "word": (
        lambda t: spoiled(t, 17, "open", "n/a"),
        "row 17 .*open of prices is not a finite number, it is 'n/a'",
    ),
    "infinite": (
        lambda t: spoiled(t, 17, "high", np.inf),
        "row 17 .*high of prices is not a finite number",
    ),
    "zero": (
        lambda t: spoiled(t, 17, "close", 0),
        "row 17 .*close of prices is not positive",
    ),
    "negative": (
        lambda t: spoiled(t, 17, "low", -3),
        "row 17 .*low of prices is not positive",
    ),
    "adjusted zero": (
        lambda t: t.assign(adj_close=0.0),
        "row 1 .*adjusted_close of prices is not positive",
    ),
    "high low": (
        lambda t: t.assign(high=t["low"] * 0.9),
        "row 1 .*high of prices is below its low; 599 more",
    ),
    "date": (lambda t: spoiled(t, 17, "date", "25/01/2000"), r"row 17 .*25/01/2000.*ISO"),
    "no date": (lambda t: spoiled(t, 17, "date", None), "row 17 .*ISO"),
    "factor": (
        lambda t: t.assign(
            open=[1e-3] * 17 + [1e3] * 583,
            close=[1e-3] * 17 + [1e3] * 583,
            low=1e-4,
            high=1e4,
        ),
        "row 18 .*open of prices changed by a factor",
    ),
    "close alone by a factor": (
        lambda t: t.assign(open=1.0, close=[1.0] * 17 + [2e4] + [1.0] * 582, low=0.1, high=1e5),
        "row 1[89] .*(open|close) of prices changed by a factor",
    ),
    "above": (
        lambda t: spoiled(t, 17, "open", 1e6),
        "row 17 .*open of prices is outside its low and high",
    ),
    "below": (
        lambda t: spoiled(t, 17, "close", 50.0),
        "row 17 .*close of prices is outside its low and high",
    ),
    "below, no high": (
        lambda t: spoiled(t, 17, "close", 50.0).drop(columns="high"),
        "row 17 .*close of prices is outside",
    ),
    "zone": (
        lambda t: spoiled(t, 17, "date", "2000-01-25T00:00+09:00"),
        "row 1 .*no time zone, and others have one",
    ),
    "truth": (lambda t: spoiled(t, 17, "close", "True"), "row 17 .*not a finite number"),
    "all truths": (
        lambda t: t.assign(close=True),
        "row 1 .*not a finite number; 599 more|row 1 .*it is 'True'",
    ),
    "short": (
        lambda t: t[:59],
        r"59 row\(s\) of prices, from 2000-01-03 to 2000-03-23: at least 60",
    ),
    "no row": (lambda t: t[:0], "header and no rows"),
    "no symbol": (
        lambda t: t.assign(symbol=[None] + ["A"] * 599),
        "row 1 .*symbol is missing",
    ),
    "negative index": (
        lambda t: t.assign(vix=-1.0),
        "volatility_index of prices is not positive",
    ),
    "index": (
        lambda t: t.assign(vix="high"),
        "volatility_index of prices is not a number, it is 'high'",
    ),
    "huge index": (
        lambda t: spoiled(t.assign(vix=20.0), 17, "vix", 1e39),
        "row 17 .*volatility_index of prices is over 1,000,000",
    ),
}


@pytest.mark.parametrize("name", ["prices.csv", "prices.parquet"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_data_are_refused_in_one_sentence(write_table, make_prices, kind, name):
    spoil, expected = BAD[kind]
    table = spoil(make_prices())

    if name.endswith("parquet"):  # which takes columns of one type only, and does not hold these files
        texts = [column for column in table if table[column].dtype == object]
        table = table.assign(**{column: table[column].map(str, na_action="ignore") for column in texts})
        if kind in ("infinite", "no date", "empty"):
            expected = expected.replace(" after the header", ".*")

    path = write_table(table.reset_index(drop=True), name)

    with pytest.raises(ValueError, match=expected) as refusal:
        read_prices([path])
    assert "\n" not in str(refusal.value)
    assert path in str(refusal.value)


def test_prices_may_lie_a_little_outside_their_range(make_prices):
    table = make_prices(100)
    inside = table.assign(close=table["high"] * 1.0099, open=table["low"] * 0.9901)

    assert np.array_equal(check_bars(rows_of(inside)).close, inside["close"])

    for name, edge, factor in (("close", "high", 1.0101), ("open", "low", 0.9899)):
        with pytest.raises(ValueError, match=f"row 1 .*{name} of A is outside its low and high; 99 more"):
            check_bars(rows_of(table.assign(**{name: table[edge] * factor})))


def test_a_symbol_needs_sixty_bars(make_prices):
    assert len(check_bars(rows_of(make_prices(MIN_BARS))).dates) == 60
    with pytest.raises(
        ValueError,
        match=r"has 59 row\(s\) of A, from 2000-01-03 to 2000-03-23: at least 60",
    ):
        check_bars(rows_of(make_prices(MIN_BARS - 1)))


def test_order_is_that_of_instants(make_prices):
    table = make_prices(100)
    hours = np.arange(100).astype("m8[h]") + np.datetime64("2000-01-03", "s")

    for clock, dates, zone in (
        (hours - np.arange(100) // 50 * np.timedelta64(3600, "s"), hours, "UTC"),
        (hours, hours, "x"),
    ):
        bars = check_bars(rows_of(table, times=Times(clock, hours, "x")))
        assert np.array_equal(bars.dates, dates)
        assert bars.zone == zone

    backwards = check_bars(rows_of(table, times=Times(hours[::-1], hours[::-1])))

    assert np.array_equal(backwards.dates, hours)
    assert np.array_equal(backwards.close, table["close"][::-1])
    assert "newest first: sorted" in backwards.notes.assumptions


def test_an_index_may_be_missing_here_and_there(write_table):
    own = np.full(600, 33.0)
    own[:50] = np.nan
    (bars,) = read_prices([write_table(vix=own)])

    np.testing.assert_array_equal(bars.volatility_index, own)


def test_less_than_a_week_is_said(make_prices):
    table = make_prices(100).assign(date=pd.date_range("2000-01-03", periods=100, freq="min"))

    assert (
        "less than a week of bars: market.bars_per_year states their number in a year"
        in check_bars(rows_of(table)).notes.assumptions
    )


def test_bars_before_a_day_lose_every_number_of_it_and_after():
    dates = np.array(["2020-01-01T16", "2020-01-02T00", "2020-01-02T16", "2020-01-03"], dtype="M8[s]")
    numbers = np.arange(4.0)
    bars = Bars(
        "A",
        "a",
        dates,
        numbers,
        numbers + 1,
        numbers + 2,
        numbers + 3,
        {"rate": numbers + 4},
        100.0,
    )
    before = bars_before(bars, "2020-01-02")

    assert before.dates.tolist() == dates[:1].tolist()
    assert [
        before.open[0],
        before.close[0],
        before.volatility_index[0],
        before.volume[0],
    ] == [0, 1, 2, 3]
    assert before.extra["rate"].tolist() == [4]
    assert {len(column) for column in (before.open, before.close, before.volatility_index, before.volume)} == {1}
    assert (before.symbol, before.bars_per_year) == ("A", 100.0)
    assert len(bars_before(bars, "2020-01-01").dates) == 0
    assert bars_before(replace(bars, volume=None), "2021-01-01").volume is None
    assert len(bars_before(bars, "2021-01-01").dates) == 4


def shuffled(table):
    return table.sample(frac=1, random_state=0)


DISORDER = {
    "two exports, the later above": lambda t: pd.concat([t[50:], t[:50]]).to_csv(),
    "two rows swapped": lambda t: t.iloc[[*range(60), 61, 60, *range(62, len(t))]].to_csv(),
    "shuffled": lambda t: shuffled(t).to_csv(),
    "month names": lambda t: csv_of(texts(shuffled(t), "%d %b %Y")),
    "epochs": lambda t: csv_of(texts(shuffled(t)).assign(Date=milliseconds(shuffled(t)))),
    "zones": lambda t: shuffled(t).tz_localize("UTC").to_csv(),
}


@pytest.mark.parametrize("kind", DISORDER)
def test_rows_in_any_order_are_sorted_where_their_dates_have_one_reading(daily, write, kind):
    (bars,) = read_prices([write(DISORDER[kind](daily))])

    assert equals(bars, daily)
    assert "rows not in the order of their dates: sorted" in bars.notes.assumptions


def test_a_stated_order_of_day_and_month_sorts_too(daily, write):
    path = write(csv_of(texts(shuffled(daily), "%d/%m/%Y")))

    assert equals(read_prices([path], ReadOptions(date_format="day_first"))[0], daily)


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_hour_that_a_clock_shows_twice_is_ordered_by_instant(make_prices, write, tmp_path, newest_first):
    """Berlin's 2:00 to 3:00 of 29 October 2000 comes at +02:00 and again at +01:00."""
    instants = pd.date_range("2000-10-27", periods=240, freq="30min", tz="UTC")
    table = make_bars(make_prices, 240).set_index(instants.tz_convert("Europe/Berlin").rename("Date"))
    table = table[::-1] if newest_first else table
    table.to_parquet(tmp_path / "zoned.parquet")

    for path in (write(table.to_csv()), str(tmp_path / "zoned.parquet")):
        (bars,) = read_prices([path])

        assert np.array_equal(bars.dates, instants.tz_localize(None).to_numpy().astype("M8[s]"))
        assert bars.zone == "UTC"
        assert "the clock goes back on 2000-10-29: dates are in UTC" in bars.notes.assumptions
        assert np.array_equal(bars.close, table["Close"].sort_index())
