"""Equal weights, rebalanced at every row: against a plain ledger of shares, and against copies of one asset."""

import numpy as np
import pandas as pd
import pytest
from markets import BARS, DAYS, WARM, cycling_market, segments_after, walk

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import buy_and_hold

FREE = TradingCosts(fee_bp=0.0)


def test_equal_weights_hold_a_symbol_through_its_second_bar_in_a_row():
    """Filled at opens that equal the closes: both earn the first bar, then B's half alone earns its second one."""
    close = walk(9)
    stamps = list(DAYS)
    twice = [40, 80, 120, 160]
    for day in twice:
        stamps[day] = DAYS[day - 1] + pd.Timedelta(hours=16)
    both = joint(
        equal_weights(segments_after(cycling_market("A", DAYS, close), cycling_market("B", stamps, close)), FREE)
    )
    rows = np.array(twice) - 1 - WARM
    growth = close[1:] / close[:-1]
    of_both = growth[rows + WARM - 1]
    of_b = growth[rows + WARM]
    assert both["return"].to_numpy()[rows] == pytest.approx(of_both * (1 + (of_b - 1) / 2) - 1)


def rebalanced(opens, closes, first, fee, at_close):
    """
    A plain ledger of shares: at every fill each asset gets an equal share of what is left after fees; fees are those
    that this costs, found by bisection. Columns without a price in a row are not traded.
    """
    names = list(closes)
    shares, cash, last = dict.fromkeys(names, 0.0), 1.0, {}
    for name in names:
        last[name] = closes[name].iloc[first - 1]
    equities, turnover, paid = [], 0.0, 0.0
    for row in range(first, len(closes)):
        there = [name for name in names if not np.isnan(closes[name].iloc[row])]
        price = {name: last[name] for name in names}
        if not at_close:
            price |= {name: opens[name].iloc[row] for name in there}
        equity_before = cash + sum(shares[name] * last[name] for name in names)
        value = {name: shares[name] * price[name] for name in names}
        equity = cash + sum(value.values())
        stays = sum(value[name] for name in names if name not in there)
        low, high = 0.0, equity
        for _ in range(200):
            fees = (low + high) / 2
            target = (equity - fees - stays) / len(there)
            needed = fee * sum(abs(target - value[name]) for name in there)
            low, high = (fees, high) if needed > fees else (low, fees)
        traded = sum(abs(target - value[name]) for name in there)
        turnover += traded / equity_before
        paid += fees / equity_before
        for name in there:
            shares[name] = target / price[name]
        cash = equity - fees - stays - target * len(there)
        last |= {name: closes[name].iloc[row] for name in there}
        equities.append(cash + sum(shares[name] * last[name] for name in names))
    return np.array(equities), turnover, paid


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("holidays", [0.0, 0.1])
def test_equal_weights_rebalance_turn_over_and_pay_as_a_ledger_of_shares_does(fill, holidays):
    rng = np.random.default_rng(12)
    closes = pd.DataFrame({name: walk(20 + seed) for seed, name in enumerate("ABC")}, index=DAYS)
    opens = closes.shift(1).bfill() * np.exp(rng.normal(0, 0.004, closes.shape))
    closed = rng.random(closes.shape) < holidays
    closed[: WARM + 1] = closed[-1] = False
    closed[closed.all(axis=1)] = False
    closes, opens = closes.mask(closed), opens.mask(closed)
    markets = [
        cycling_market(
            name, DAYS, closes[name].to_numpy(), opens[name].to_numpy(), kept=np.flatnonzero(closes[name].notna())
        )
        for name in "ABC"
    ]
    costs = TradingCosts(fee_bp=20.0, slippage_bp=10.0, fill=fill)
    frames = equal_weights(segments_after(*markets), costs)
    together = joint(frames)
    equity, turnover, paid = rebalanced(opens, closes, WARM, 0.003, fill == "close")
    np.testing.assert_allclose(together["equity"], equity, rtol=1e-10)
    computed = figures(together, 252)
    years = len(together) / 252
    assert computed["turnover_per_year"] == pytest.approx(turnover / years)
    assert computed["costs_per_year"] == pytest.approx(paid / years)
    free, _, _ = rebalanced(opens, closes, WARM, 0.0, fill == "close")
    assert computed["gross_return"] == pytest.approx(free[-1] - 1)
    assert computed["turnover_per_year"] > 1.0


def test_equal_weights_pay_fees_in_currency():
    """Two assets at 100, of 1,000 each: a fee of 5 an order. The first row buys 995 of each, 10 of 2,000 are paid."""
    close = np.full(BARS, 100.0)
    close[WARM:] = 100.0
    close += 1e-3 * np.sin(np.arange(BARS))
    markets = [cycling_market(name, DAYS, close) for name in "AB"]
    costs = TradingCosts(fee_bp=0.0, min_fee=5.0, start_equity=1000.0, fill="close")
    together = joint(equal_weights(segments_after(*markets), costs))
    assert together["cost"].iloc[0] == pytest.approx(0.005)
    assert together["trade"].iloc[0] == pytest.approx(0.995)
    assert together["cost"].iloc[1:].to_numpy() == pytest.approx(0.0)  # equal from there on: no order


def test_equal_weights_of_copies_are_the_asset():
    close = walk(13)
    copies = [cycling_market("A", DAYS, close), cycling_market("B", DAYS + pd.Timedelta(hours=16), close)]
    together = joint(equal_weights(segments_after(*copies), FREE))
    alone = joint(backtest(segments_after(copies[0]), FREE, buy_and_hold))
    np.testing.assert_allclose(together["return"], alone["return"], atol=1e-12)


@pytest.mark.parametrize("cash_rate", [0.0, 0.1])
def test_equal_weights_leave_the_share_of_a_symbol_that_is_not_there_in_cash(cash_rate):
    """
    Each of two holds a half of the account, bought at opens that are the closes. A ends at row 119, B begins at row 71.
    Interest is of the half that a symbol has not yet invested in its first row, and of no other cash.
    """
    a, b = walk(7, 120), walk(8, 150)
    markets = cycling_market("A", DAYS[:120], a), cycling_market("B", DAYS[50:200], b)
    costs = TradingCosts(fee_bp=0.0, cash_rate=cash_rate)
    together = joint(equal_weights(segments_after(*markets), costs))
    expected = []
    for row in range(WARM, 200):
        of_a = a[row] / a[row - 1] - 1 if WARM < row < 120 else 0.0
        of_b = b[row - 50] / b[row - 51] - 1 if row > 50 + WARM else 0.0
        interest = cash_rate / 252 / 2 * ((row == WARM) + (row == 50 + WARM))
        expected.append((of_a + of_b) / 2 + interest)
    np.testing.assert_allclose(together["return"], expected, atol=1e-12)
    assert together["position"].iloc[10] == pytest.approx(0.5, abs=0.02)
    assert together["position"].iloc[-1] == pytest.approx(0.5, abs=0.02)
