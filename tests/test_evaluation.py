"""Backtests and their figures, against closed forms in numpy."""

import re

import numpy as np
import pandas as pd
import pytest

from market_regimes.data import load_shipped
from market_regimes.env import Segment, TradingCosts
from market_regimes.evaluation import (
    backtest,
    buy_and_hold,
    discounted,
    figures,
    figures_by_regime,
    joint,
    random_timing,
    tear_sheet,
    trades,
    volatility_targeting,
)

MARKET = load_shipped("sp500")
TRAIN = MARKET.period("1999-01-01", "2008-12-31")
TEST = MARKET.period("2011-01-01", "2018-12-31")
SEGMENT = Segment(MARKET, TEST, TRAIN)


@pytest.fixture(scope="module")
def held():
    return backtest([SEGMENT], TradingCosts(), buy_and_hold)["S&P 500"]


def test_every_day_of_the_period_earns_its_return(held):
    assert len(held) == len(TEST)
    assert held["return"].to_numpy()[1:] == pytest.approx(
        MARKET.close[TEST[1] : TEST[-1] + 1] / MARKET.close[TEST[0] : TEST[-1]] - 1
    )


def test_figures_are_their_closed_forms(held):
    returns = held["return"].to_numpy()
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    computed = figures(held, 252)
    assert computed["sharpe_ratio"] == pytest.approx(np.sqrt(252) * returns.mean() / returns.std(ddof=1))
    downside = np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))
    assert computed["sortino_ratio"] == pytest.approx(np.sqrt(252) * returns.mean() / downside)
    assert computed["max_drawdown"] == pytest.approx((equity / np.maximum.accumulate(equity) - 1).min())
    assert computed["total_return"] == pytest.approx(equity[-1] - 1)
    assert computed["turnover_per_year"] == pytest.approx(252 / len(returns), rel=1e-3)


def test_figures_of_an_agent_that_never_trades_are_left_undefined():
    flat = backtest([SEGMENT], TradingCosts(), lambda core: np.zeros(1))["S&P 500"]
    computed = figures(flat, 252)
    assert computed["sharpe_ratio"] is None
    assert computed["sortino_ratio"] is None
    assert computed["max_drawdown"] == 0.0


def test_regimes_with_few_days_are_not_given(held):
    table = figures_by_regime({"S&P 500": held}, 252)
    assert sum(cell["bars"] for cell in table.values()) == len(TEST)
    assert table["crash"] == {"bars": 0.0, "sharpe_ratio": None, "exposure": None}
    calm = held[held["regime"] == "calm"]["return"]
    assert table["calm"]["sharpe_ratio"] == pytest.approx(np.sqrt(252) * calm.mean() / calm.std())


def test_days_carry_their_own_regime(held):
    day = pd.Timestamp("2011-08-19")
    assert held.loc[day, "index"] == MARKET.index[MARKET.dates == np.datetime64("2011-08-19")][0]
    assert held.loc[day, "regime"] == "volatile"


NASDAQ = load_shipped("nasdaq").with_bounds_of(TRAIN)
BOTH = [SEGMENT, Segment(NASDAQ, range(TEST.start, TEST.stop - 500), TRAIN)]
COSTS = TradingCosts(fee_bp=5.0)


def alternate(core):
    """In for ten bars, out for ten."""
    return ((core.bar - core.first[core.symbol]) // 10 % 2).astype(float)


def test_figures_beside_the_sharpe_ratio(held):
    returns = held["return"].to_numpy()
    computed = figures(held, 252)
    growth = np.prod(1 + returns)
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    drawdown = (equity / np.maximum.accumulate(equity) - 1).min()
    assert computed["calmar_ratio"] == pytest.approx((growth ** (252 / len(returns)) - 1) / -drawdown)
    assert computed["hit_rate"] == pytest.approx(np.mean(returns[returns != 0] > 0))
    assert computed["exposure"] == pytest.approx(1.0)
    assert figures(held, 1000)["sharpe_ratio"] == pytest.approx(computed["sharpe_ratio"] * np.sqrt(1000 / 252))


def test_gross_is_before_costs():
    frame = backtest([SEGMENT], COSTS, alternate)["S&P 500"]
    free = backtest([SEGMENT], TradingCosts(fee_bp=0.0), alternate)["S&P 500"]
    assert frame["gross_equity"].iloc[-1] == pytest.approx(free["equity"].iloc[-1])
    assert figures(frame, 252)["gross_return"] > figures(frame, 252)["total_return"]
    assert frame["cost"].sum() == pytest.approx(5e-4 * frame["trade"].abs().sum())


def test_each_symbol_as_if_alone_and_both_in_equal_shares():
    both = backtest(BOTH, COSTS, alternate)
    for segment in BOTH:
        alone = backtest([segment], COSTS, alternate)[segment.market.symbol]
        pd.testing.assert_frame_equal(both[segment.market.symbol], alone)
    together = joint(both)
    first, second = both.values()
    assert len(second) == len(first) - 500
    mean = (first["return"].iloc[: len(second)].to_numpy() + second["return"].to_numpy()) / 2
    assert together["return"].iloc[: len(second)].to_numpy() == pytest.approx(mean)
    assert together["return"].iloc[len(second) :].to_numpy() == pytest.approx(first["return"].iloc[len(second) :])
    assert together["equity"].iloc[-1] == pytest.approx(np.prod(1 + together["return"]))


def test_regimes_of_several_symbols_join_those_that_are_in_them():
    both = backtest(BOTH, COSTS, buy_and_hold)
    table = figures_by_regime(both, 252)
    calm = [frame[frame["regime"] == "calm"]["return"] for frame in both.values()]
    mean = pd.concat(calm, axis=1).mean(axis=1)
    assert table["calm"]["bars"] == len(mean)
    assert table["calm"]["sharpe_ratio"] == pytest.approx(np.sqrt(252) * mean.mean() / mean.std())


def test_volatility_targeting_holds_less_in_storms():
    frame = backtest([SEGMENT], TradingCosts(), volatility_targeting([SEGMENT]))["S&P 500"]
    median = np.median(MARKET.volatility[TRAIN.start : TRAIN.stop])
    known = MARKET.volatility[TEST.start - 1 : TEST.stop - 1]  # at the close before the bar that earns
    assert frame["target"].to_numpy() == pytest.approx(np.minimum(median / known, 1.0))


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
    flat = backtest([SEGMENT], COSTS, lambda core: np.zeros(core.n_envs))
    shifted, sharpe = random_timing([SEGMENT], COSTS, flat, seed=0, runs=5)
    assert np.isnan(sharpe).all()
    assert (shifted["S&P 500"]["return"] == 0).all()


def test_after_ruin_nothing_is_held_and_nothing_earned():
    crash = MARKET.period("2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frame = backtest([Segment(MARKET, crash, TRAIN)], costs, lambda core: np.full(core.n_envs, 10.0))["S&P 500"]
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
    crash = MARKET.period("2008-09-01", "2008-12-31")
    costs = TradingCosts(position_low=-10.0, position_high=10.0)
    frames = backtest([Segment(MARKET, crash, TRAIN)], costs, lambda core: np.full(core.n_envs, 10.0))
    outcomes = discounted(frames, np.array([99.0]), 1.0)
    assert outcomes[0] == pytest.approx(100 * np.log(0.01))
    assert np.isnan(outcomes[-1])


def test_the_decision_rule_sees_the_last_state_too():
    seen = []
    frame = backtest([SEGMENT], COSTS, lambda core: seen.append(core.bar.copy()) or np.zeros(1))["S&P 500"]
    assert len(seen) == len(frame) + 1
    assert MARKET.dates[seen[-1][0]] == frame.index[-1].to_numpy()


def test_tear_sheet_loads_nothing_from_the_network(held, tmp_path):
    agent = backtest([SEGMENT], COSTS, alternate)["S&P 500"]
    tear_sheet(agent["return"], held["return"], tmp_path / "sheet.html", "the <title>", 252)
    html = (tmp_path / "sheet.html").read_text()
    assert "the &lt;title&gt;" in html
    assert "Sharpe" in html
    loaded = re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=.?https?://", html)
    assert loaded + re.findall(r"url\(.?https?://|@import", html) == []
