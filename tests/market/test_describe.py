"""What is said of one symbol and of twenty."""

import numpy as np
import pandas as pd
import pytest

from market_regimes.config import MarketConfig
from market_regimes.market.data import read_bars
from market_regimes.market.describe import (
    assumed,
    described,
    lines_of,
    names_of,
    notes_of,
    table_of,
    warnings_of,
)
from market_regimes.market.oddities import oddities
from market_regimes.market.segments import read_data
from market_regimes.run.trained import notes_on_training_days, trained_on

PRICES = ["open", "high", "low", "close"]


@pytest.fixture
def write(tmp_path, make_prices):
    """A function that writes made-up prices under a name, perhaps changed, and gives their path."""

    def write(name="prices", change=lambda table: table, bars=600, **keywords):
        path = tmp_path / f"{name}.csv"
        change(make_prices(bars, **keywords)).to_csv(path, index=False)
        return str(path)

    return write


@pytest.fixture
def twenty(write):
    """Twenty symbols, each with a gap in its volume on another day."""

    def gap(row):
        return lambda table: table.assign(volume=[*table["volume"][:row], np.nan, *table["volume"][row + 1 :]])

    return [write(f"S{i:02d}", gap(10 + i), seed=i) for i in range(20)]


def test_twenty_symbols_have_a_line_each_and_share_the_rest(twenty):
    data = read_data(MarketConfig(twenty))
    symbols = described(data)
    lines = table_of(symbols, data.read)

    assert len(lines) < 40

    table = [line.split() for line in lines[:21]]

    assert table[0][:4] == ["symbol", "bars", "first", "last"]

    for row, symbol in zip(table[1:], symbols, strict=True):
        assert row[:4] == [symbol["symbol"], "600", "2000-01-03", "2002-04-19"]
        assert [int(count) for count in row[4:8]] == list(symbol["regimes"].values())
        assert [int(count) for count in row[8:]] == [360, 90, 150]

    assert f"  files      20, the first {twenty[0]}" in lines
    assert "  bars       of 1 day, 261 a year" in lines
    assert "  assumed    all 20 symbols, such as S00: volume is missing in 1 row(s), the first 2000-01-17" in lines


def test_what_some_of_many_differ_in_names_them(twenty, write):
    twenty[3] = write("S03", lambda table: table.drop(columns="open"), seed=3)
    twenty[4] = write(
        "S04",
        lambda table: table.assign(date=table["date"].dt.tz_localize("Asia/Tokyo")),
        seed=4,
    )
    data = read_data(MarketConfig(twenty))
    lines = table_of(described(data), data.read)

    assert "  fill       at the close (S03)" in lines
    assert "  zone       +09:00 (S04)" in lines
    assert "  assumed    S03: no opening prices: orders fill at the close" in lines


def test_few_symbols_keep_their_sentences(write):
    data = read_data(MarketConfig([write("A"), write("B")]))

    assert assumed(data.read) == []

    gaps = [write(name, lambda t: t.assign(volume=[np.nan, *t["volume"][1:]])) for name in ("A", "B")]
    line = "volume is missing in 1 row(s), the first 2000-01-03"

    assert assumed(read_bars(MarketConfig(gaps))) == [f"A, B: {line}"]
    assert names_of(list("ABCDEFG")) == "A, B, C, D, E and 2 more"


def split(ratio, bar=300):
    """Prices from a bar on divided by a ratio, as a split that nobody adjusted."""

    def change(table):
        table.loc[bar:, PRICES] /= ratio
        return table

    return change


def crash(factor, bar=300):
    """A session that opens as usual and closes at the factor, and stays there."""

    def change(table):
        near, far = ("low", "high") if factor < 1 else ("high", "low")
        table.loc[bar:, [near, "close"]] *= factor
        table.loc[bar + 1 :, ["open", far]] *= factor

        return table

    return change


@pytest.mark.parametrize("ratio", [2, 3, 4, 7, 20, 1 / 2, 1 / 10])
@pytest.mark.parametrize("columns", [PRICES, ["close"]])
def test_a_split_that_was_not_adjusted_is_asked_about_at_every_command(write, ratio, columns):
    path = write(change=lambda table: split(ratio)(table)[["date", *columns]])
    (line,) = warnings_of(read_bars(MarketConfig(path)))

    assert "on 2001-02-26; a split that was not adjusted? 1 such bar(s)" in line


@pytest.mark.parametrize(
    "change",
    [crash(0.49), crash(0.45), crash(0.25), split(1 / 0.43), split(2.6), crash(2.4)],
)
def test_a_crash_is_named_by_data_alone(write, change):
    read = read_bars(MarketConfig(write(change=change)))

    assert warnings_of(read) == []

    (line,) = warnings_of(read, with_moves=True)

    assert "on 2001-02-26, by no ratio of a split: 1 such bar(s)" in line


@pytest.mark.parametrize("factor", [2.6, 10, 0.3])
def test_a_price_that_comes_back_is_asked_about_at_every_command(write, factor):
    def spike(table):
        table.loc[300, PRICES] *= factor
        return table

    (line,) = warnings_of(read_bars(MarketConfig(write(change=spike))))

    assert "2001-02-2" in line  # there or back, whichever is larger
    assert "and back at the next bar; a mistaken price? 2 such bar(s)" in line


def test_both_are_named_where_a_symbol_has_both(write):
    path = write(change=lambda table: crash(0.3, 400)(split(4)(table)))
    first, second = oddities(read_bars(MarketConfig(path))[0])

    assert "2001-02-26; a split that was not adjusted? 1 such" in first.text
    assert "2001-07-16, by no ratio of a split: 1 such" in second.text


def test_equal_warnings_of_many_are_one(write):
    paths = [write(f"S{i:02d}", split(2, 200 + i), seed=i) for i in range(20)]
    (line,) = warnings_of(read_bars(MarketConfig(paths)))

    assert line.startswith("all 20 symbols have moves like a split that was not adjusted; ")
    assert "close of S00 moves by" in line
    assert len(warnings_of(read_bars(MarketConfig(paths[:3])))) == 3


def test_prices_that_do_not_move_are_refused_as_training_does(write):
    path = write(change=lambda table: table.assign(**dict.fromkeys(PRICES, 100.0)))

    with pytest.raises(
        ValueError,
        match=r"close of prices does not move from .* and nothing can be learned from it",
    ):
        read_data(MarketConfig(path))


def test_the_index_of_the_synthetic_market_is_its_own(write):
    data = read_data(MarketConfig("synthetic"))

    assert {symbol["volatility_index"] for symbol in described(data)} == {"own"}

    with pytest.raises(ValueError, match="part of its law and not estimated"):
        read_data(MarketConfig("synthetic", volatility_index="estimated"))

    path = write(change=lambda table: table.assign(vix=20.0 + np.arange(600) % 7))

    for option, expected in (("auto", "own"), ("estimated", "estimated")):
        (symbol,) = described(read_data(MarketConfig(path, volatility_index=option)))
        assert symbol["volatility_index"] == expected


class TestLaw:
    """Where the law of the bars is known, ``data`` states it."""

    def test_by_kind_of_symbol(self):
        """The strong ones have the odd numbers. Stretches of 120 and 50 days: 71 and 29 % of them."""
        data = read_data(MarketConfig("synthetic_choice"))
        symbols = described(data)
        laws = [symbol["law"] for symbol in symbols]

        assert laws[0]["growth"] == pytest.approx([0.08, -0.182])
        assert laws[0]["std"] == [0.7, 2.8]
        assert laws[0]["days"] == pytest.approx([120, 50])
        assert laws[0]["share"] == pytest.approx([120 / 170, 50 / 170])
        assert [law["growth"][0] for law in laws] == pytest.approx([0.08, 0.02] * 10)
        assert [law["index"][0] for law in laws] == pytest.approx([11.112, 17.779] * 10, abs=0.001)

        lines = [line for line in table_of(symbols, data.read) if line.startswith("  law ")]

        assert len(lines) == 2
        assert "+0.02 % a day at index 17.8 (71% of the days, 120 in a row), -0.182 % a day at index 44.4" in lines[1]
        assert "(synthetic_choice-02, synthetic_choice-04, " in lines[1]
        assert any(line.startswith("  law        +0.08 % a day") for line in lines_of(symbols[0]))

    def test_of_other_bars_nothing_is_said(self):
        data = read_data(MarketConfig("sp500"))
        (symbol,) = described(data)

        assert symbol["law"] is None
        assert not [line for line in lines_of(symbol) if line.startswith("  law")]


@pytest.mark.parametrize(
    ("frequency", "length", "noun"),
    [
        ("MS", "1 month", "bars of 1 month"),
        ("W-FRI", "1 week", "bars of 1 week"),
        ("B", "1 day", "days"),
    ],
)
def test_bars_are_called_what_they_are(write, frequency, length, noun):
    data = read_data(MarketConfig(write(frequency=frequency, bars=300)))
    (symbol,) = described(data)

    assert symbol["bar_length"] == length
    assert f", of {length}" in lines_of(symbol)[1]

    tested = notes_on_training_days(data.segments["test"], trained_on(data.segments))

    assert any(f" {noun}" in sentence for sentence in tested)
    assert any(" of 75 " in sentence or "these 75 " in sentence for sentence in tested) or frequency != "W-FRI"


def test_every_note_is_said_by_the_other_commands_too(twenty):
    config = MarketConfig(twenty)
    line = "all 20 symbols, such as S00: volume is missing in 1 row(s), the first 2000-01-17"

    assert line in notes_of(read_data(config), config)


def test_a_date_is_a_date_in_every_sentence(write):
    read = read_bars(MarketConfig(write(change=split(4))))

    assert pd.Timestamp("2001-02-26") == pd.bdate_range("2000-01-03", periods=301)[-1]
    assert "2001-02-26" in warnings_of(read)[0]
