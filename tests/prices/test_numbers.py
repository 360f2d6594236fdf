"""Numbers of columns: gaps, and cells that hold no number. They are refused with row and text, or noted."""

import numpy as np
import pytest
from exports import BARS, csv_of, equals, make_bars, texts

from market_regimes.prices import ReadOptions, read_prices

FEATURE = ReadOptions(own={"volume": "market.features"})


def with_volume(table, cell, row=2):
    """The table with another text for the volume of one row; row 3 of it is 2000-01-05."""
    volumes = [str(volume) for volume in table["Volume"]]
    volumes[row] = cell

    return csv_of(texts(table).assign(Volume=volumes))


def indian(number):
    """85,94,000 for 8594000: the last three digits, then pairs."""
    head = str(number)[:-3]
    tail = str(number)[-3:]
    pairs = []
    while head:
        pairs.insert(0, head[-2:])
        head = head[:-2]

    return ",".join([*pairs, tail])


def test_indian_volumes_and_prices_are_read(daily, write):
    table = (daily * np.array([1e4, 1e4, 1e4, 1e4, 8594])).round()
    table["Volume"] = table["Volume"].astype(int)
    cells = texts(table).assign(
        **{name: [indian(int(value)) for value in table[name]] for name in ("Open", "High", "Low", "Close", "Volume")}
    )
    (bars,) = read_prices([write(csv_of(cells))])

    assert indian(8594000) == "85,94,000"
    assert equals(bars, table)
    assert np.array_equal(bars.volume, table["Volume"])
    assert any(sentence.startswith("commas separate lakhs and crores: ") for sentence in bars.notes.assumptions)


@pytest.mark.parametrize("text", ["8x", "85,9,000", "1.2M shares", "12 L", "5%", "high", "12 34", "True"])
def test_a_volume_that_is_no_number_is_refused_where_an_option_needs_it_and_said_elsewhere(daily, write, text):
    path = write(with_volume(daily, text))

    with pytest.raises(ValueError, match=r"row 3 .*2000-01-05\): volume is not a finite number, it is ") as refusal:
        read_prices([path], FEATURE)
    assert repr(text) in str(refusal.value)

    (bars,) = read_prices([path])

    assert np.isnan(bars.volume[2])
    assert np.isfinite(np.delete(bars.volume, 2)).all()
    assert (
        f"volume is no number in 1 row(s), the first 2000-01-05, {text!r}: taken as missing" in bars.notes.assumptions
    )
    assert "commas separate thousands" not in bars.notes.assumptions


@pytest.mark.parametrize("mark", ["", "-", "--", "N/A", "n.a.", "null", "\u2014", "#N/A N/A", "\\N"])
@pytest.mark.parametrize("options", [ReadOptions(), FEATURE])
def test_a_missing_mark_stays_missing_and_is_said(daily, write, mark, options):
    (bars,) = read_prices([write(with_volume(daily, mark))], options)

    assert np.isnan(bars.volume[2])
    assert np.isfinite(np.delete(bars.volume, 2)).all()
    assert "volume is missing in 1 row(s), the first 2000-01-05" in bars.notes.assumptions


def test_gaps_of_an_index_and_of_a_feature_are_said(daily, write):
    table = daily.assign(vix=[np.nan] * 3 + [20.0] * (BARS - 3), mood=[1.0, np.nan] + [2.0] * (BARS - 2))
    (bars,) = read_prices([write(table.to_csv())], ReadOptions(own={"mood": "market.features"}))

    assert "volatility_index is missing in 3 row(s), the first 2000-01-03" in bars.notes.assumptions
    assert "mood is missing in 1 row(s), the first 2000-01-04" in bars.notes.assumptions
    assert not any("volume" in sentence for sentence in bars.notes.assumptions)


def test_a_target_in_percent_is_refused(daily, write):
    path = write(csv_of(texts(daily).assign(held="50%", mood="50%")))
    own = {"mood": "market.features", "held": "market.benchmark_positions"}

    with pytest.raises(ValueError, match=r"row 1 .*held is not a finite number, it is '50%'"):
        read_prices([path], ReadOptions(own=own))

    (bars,) = read_prices([path], ReadOptions(own={"mood": "market.features"}))

    assert (bars.extra["mood"] == 50).all()
    assert "percent signs removed: 50% is 50" in bars.notes.assumptions


def test_decimal_commas_that_come_late(make_prices, write):
    """The first 250 closes are whole numbers, and volumes have points between thousands."""
    table = make_bars(make_prices, 300)[["Close", "Volume"]]
    table["Close"] = np.where(np.arange(300) < 250, 100.0, 100.25)
    cells = texts(table).assign(
        Close=["100"] * 250 + ["100,25"] * 50,
        Volume=[f"{volume:,}".replace(",", ".") for volume in table["Volume"]],
    )
    (bars,) = read_prices([write(csv_of(cells, sep=";"))])

    assert np.array_equal(bars.close, table["Close"])
    assert np.array_equal(bars.volume, table["Volume"])
