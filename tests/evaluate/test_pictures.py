"""Every line of a picture can be seen. Oracle: the colours of the pixels that Matplotlib drew."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from market_regimes.config import TradingCosts
from market_regimes.evaluate.pictures import largest_and_rest, line_styles, picture_of_equity, tear_sheet
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment

pytestmark = pytest.mark.usefixtures("pictures")
DATES = pd.date_range("2000-01-03", periods=500, freq="B")


def frame_of(seed):
    """A backtest with what the picture shows."""
    returns = np.random.default_rng(seed).normal(0.0005, 0.01, len(DATES))
    equity = np.cumprod(1 + returns)
    columns = {"return": returns, "equity": equity, "gross_equity": equity}
    return pd.DataFrame({**columns, "position": 0.5, "index": 15.0 + seed}, index=DATES)


def widths(path, names):
    """Of each line the number of the picture's columns in which its colour is found, but for those of the legend."""
    pixels = imread(path)[:, :, :3]
    found = {}
    for i, name in enumerate(names):
        near = np.abs(pixels - np.array(to_rgb(f"C{i}"))).max(axis=2) < 0.12
        found[name] = int(near.any(axis=0).sum())
    return found


@pytest.mark.parametrize(
    "seeds",
    [
        {"agent": 0, "buy and hold": 0, "own rule": 2, "fitted rule": 2},
        {"agent": 0, "buy and hold": 1, "own rule": 2, "fitted rule": 2, "informed rule": 2},
        {"agent": 0, "buy and hold": 0, "own rule": 0, "fitted rule": 0, "informed rule": 0},
    ],
)
def test_lines_that_coincide_are_all_seen(tmp_path, seeds):
    picture_of_equity({name: frame_of(seed) for name, seed in seeds.items()}, tmp_path / "a.png", "")
    found = widths(tmp_path / "a.png", seeds)
    assert min(found.values()) > 200, found  # of 1,100 columns; a legend's line has 22


def test_lines_apart_stay_solid():
    frames = [np.log(frame_of(seed)["equity"]) for seed in range(3)]
    assert line_styles(frames) == ["-", "-", "-"]
    assert line_styles(frames[:1]) == ["-"]


def test_dashes_leave_room_for_each_other():
    """Of three curves each has a third of the way, one after the other."""
    curve = np.log(frame_of(0)["equity"])
    styles = line_styles([curve, np.log(frame_of(1)["equity"]), curve + 1e-6, curve])
    assert styles[1] == "-"
    covered = []
    for offset, (dash, gap) in (styles[0], styles[2], styles[3]):
        covered.append({int(place) for place in range(36) if (place + offset) % (dash + gap) < dash})
    assert set.union(*covered) == set(range(36))
    assert sum(map(len, covered)) == 36


def test_lines_that_part_half_way_are_solid_and_later_ones_dashed():
    """Hidden for most of its bars, a line is dashed; hidden for fewer, it shows by itself."""
    curve = np.log(frame_of(0)["equity"])
    for bars, dashed in ((200, False), (300, True)):
        other = curve.where(np.arange(500) < bars, curve + 1)
        assert (line_styles([curve, other]) != ["-", "-"]) == dashed


def test_curves_on_other_dates_and_flat_ones_have_styles():
    curve = np.log(frame_of(0)["equity"])
    assert line_styles([curve.iloc[:200], curve.iloc[300:]]) == ["-", "-"]
    assert line_styles([curve, curve.iloc[300:]]) != ["-", "-"]
    assert line_styles([curve * 0, curve * 0]) != ["-", "-"]


# The tear sheet of quantstats.

MARKET = load_shipped("sp500")
TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")
TEST = period_of(MARKET, "2011-01-01", "2018-12-31")
SEGMENT = Segment.scaled_by(MARKET, TEST, TRAIN)


NASDAQ = load_shipped("nasdaq")
NASDAQ = replace(NASDAQ, regimes=NASDAQ.regimes.fitted(NASDAQ.index, TRAIN))
BOTH = [SEGMENT, Segment.scaled_by(NASDAQ, range(TEST.start, TEST.stop - 500), TRAIN)]
COSTS = TradingCosts(fee_bp=5.0)


def alternate(known):
    """In for ten bars, out for ten; the period begins alike in both."""
    return ((known.bar - SEGMENT.first) // 10 % 2).astype(float)


@pytest.fixture(scope="module")
def held():
    return backtest([SEGMENT], TradingCosts(), buy_and_hold)["S&P 500"]


def test_tear_sheet_loads_nothing_from_the_network(held, tmp_path):
    agent = backtest([SEGMENT], COSTS, alternate)["S&P 500"]
    tear_sheet(agent["return"].iloc[:300], held["return"].iloc[:300], tmp_path / "sheet.html", "the <title>", 252)
    html = (tmp_path / "sheet.html").read_text()
    assert "the &lt;title&gt;" in html
    assert "Sharpe" in html
    loaded = re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=.?https?://", html)
    assert loaded + re.findall(r"url\(.?https?://|@import", html) == []


def test_tear_sheet_agrees_with_the_figures_though_the_agent_trades_late(held, tmp_path):
    """A hundred bars without a position come first; quantstats would leave them out of both columns."""
    agent = held["return"].iloc[:600].copy()
    agent.iloc[:100] = 0.0
    tear_sheet(agent, held["return"].iloc[:600], tmp_path / "sheet.html", "title", 252)
    html = (tmp_path / "sheet.html").read_text()
    row = re.search(r"<td>Cumulative Return</td><td>([-\d.]+)%</td><td>([-\d.]+)%</td>", html)
    for text, returns in zip(row.groups(), (held["return"].iloc[:600], agent), strict=True):
        assert float(text) == pytest.approx(100 * (np.prod(1 + returns) - 1), abs=0.01)
    assert "CAGR %" in html
    assert "\ufe6a" not in html
    assert "<!-- EOY Returns" not in html
    assert "<!-- Cumulative Returns vs Benchmark -->" in html


def test_the_largest_have_their_names_and_the_rest_is_one_sum():
    names = [f"S{i:02d}" for i in range(25)]
    table = pd.DataFrame([np.arange(25.0), np.ones(25)], columns=names)
    shown = largest_and_rest(table, table.iloc[0])

    assert list(shown.columns) == [f"S{i:02d}" for i in range(24, 4, -1)] + ["the rest"]
    assert shown["the rest"].tolist() == [0 + 1 + 2 + 3 + 4, 5]
    assert largest_and_rest(table[names[:3]], table.iloc[0, :3]).columns.tolist() == ["S02", "S01", "S00"]
