"""Backtests and their figures, and what is read off them."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from markets import load_shipped

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.pictures import tear_sheet
from market_regimes.evaluate.play import backtest, discounted, random_timing, trades
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.regimes import bounds_in
from market_regimes.market.segments import Segment, period_of

pytestmark = pytest.mark.usefixtures("pictures")
MARKET = load_shipped("sp500")
TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")
TEST = period_of(MARKET, "2011-01-01", "2018-12-31")
SEGMENT = Segment(MARKET, TEST, TRAIN)


@pytest.fixture(scope="module")
def held():
    return backtest([SEGMENT], TradingCosts(), buy_and_hold)["S&P 500"]


def test_figures_of_an_agent_that_never_trades_are_left_undefined():
    flat = backtest([SEGMENT], TradingCosts(), lambda known: np.zeros(1))["S&P 500"]
    computed = figures(flat, 252)
    assert computed["sharpe_ratio"] is None
    assert computed["sortino_ratio"] is None
    assert computed["max_drawdown"] == 0.0


NASDAQ = load_shipped("nasdaq")
NASDAQ = replace(NASDAQ, bounds=bounds_in(NASDAQ.index, TRAIN))
BOTH = [SEGMENT, Segment(NASDAQ, range(TEST.start, TEST.stop - 500), TRAIN)]
COSTS = TradingCosts(fee_bp=5.0)


def alternate(known):
    """In for ten bars, out for ten; the period begins alike in both."""
    return ((known.bar - SEGMENT.first) // 10 % 2).astype(float)


def test_each_symbol_is_traded_as_if_alone():
    both = backtest(BOTH, COSTS, alternate)
    for segment in BOTH:
        alone = backtest([segment], COSTS, alternate)[segment.market.symbol]
        pd.testing.assert_frame_equal(both[segment.market.symbol], alone)


def test_random_timing_keeps_turnover_and_exposure_and_loses_the_timing():
    agent = backtest(BOTH, COSTS, alternate)
    shifted, sharpe = random_timing(BOTH, COSTS, agent, seed=0, runs=21)
    assert len(np.unique(sharpe)) > 10
    for symbol in agent:
        assert sorted(shifted[symbol]["target"]) == sorted(agent[symbol]["target"])
        assert not np.array_equal(shifted[symbol]["target"], agent[symbol]["target"])
        turnover = [frames[symbol]["trade"].abs().sum() for frames in (shifted, agent)]
        assert turnover[0] == pytest.approx(turnover[1], rel=0.03)
    returns = joint(shifted)["return"]
    assert returns.mean() / returns.std() == pytest.approx(np.median(sharpe))
    again = random_timing(BOTH, COSTS, agent, seed=0, runs=21)[1]
    assert np.array_equal(sharpe, again)


def test_random_timing_of_an_agent_that_never_trades():
    flat = backtest([SEGMENT], COSTS, lambda known: np.zeros(len(known.bar)))
    shifted, sharpe = random_timing([SEGMENT], COSTS, flat, seed=0, runs=5)
    assert np.isnan(sharpe).all()
    assert (shifted["S&P 500"]["return"] == 0).all()


def test_after_ruin_nothing_is_held_and_nothing_earned():
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frame = backtest([Segment(MARKET, crash, TRAIN)], costs, lambda known: np.full(len(known.bar), 10.0))["S&P 500"]
    assert len(frame) == len(crash)
    ruined = frame["equity"] <= 0.0100001
    assert 0 < ruined.sum() < len(frame)
    assert (frame.loc[ruined, "return"].iloc[1:] == 0).all()
    assert (frame.loc[ruined, "position"].iloc[1:] == 0).all()


def test_trades_are_the_orders_filled():
    frame = backtest([SEGMENT], COSTS, alternate)
    orders = trades(frame)
    first = orders.iloc[0]
    assert (first["symbol"], first["side"], first["target"]) == ("S&P 500", "buy", 1.0)
    assert first["price"] == MARKET.open[TEST.start + 10]
    assert orders.index[0] == pd.Timestamp(MARKET.dates[TEST.start + 10])
    large = orders[orders["traded"] > 0.5]
    assert large["side"].tolist() == ["buy", "sell"] * (len(TEST) // 20) + ["buy"] * (len(TEST) % 20 > 10)
    at_close = trades(backtest([SEGMENT], TradingCosts(fill="close"), alternate)).iloc[0]
    assert at_close["price"] == MARKET.close[TEST.start + 9]


def test_discounted_rewards_by_the_definition(held):
    frame = held.iloc[:3]
    r = 100 * np.log1p(frame["return"].to_numpy())
    expected = [r[0] + 0.9 * r[1] + 0.81 * r[2] + 0.729 * 7, r[1] + 0.9 * r[2] + 0.81 * 7, r[2] + 0.9 * 7]
    assert discounted({"A": frame}, np.array([7.0]), 0.9) == pytest.approx(expected)


def test_discounted_rewards_end_with_ruin():
    crash = period_of(MARKET, "2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frames = backtest([Segment(MARKET, crash, TRAIN)], costs, lambda known: np.full(len(known.bar), 10.0))
    outcomes = discounted(frames, np.array([99.0]), 1.0)
    assert outcomes[0] == pytest.approx(100 * np.log(0.01))
    assert np.isnan(outcomes[-1])


def test_the_decision_rule_sees_the_last_state_too():
    seen = []
    frame = backtest([SEGMENT], COSTS, lambda known: seen.append(known.bar.copy()) or np.zeros(1))["S&P 500"]
    assert len(seen) == len(frame) + 1
    assert MARKET.dates[seen[-1][0]] == frame.index[-1].to_numpy()


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
