"""Several symbols are one account: against plain ledgers, and against copies of one asset with other stamps."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pandas as pd
import pytest
from markets import BARS, DAYS, WARM, cycling_market, segments_after, walk

from market_regimes.config import TradingCosts
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.figures import figures, figures_by_regime, summary
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.segment import Segment

FREE = TradingCosts(fee_bp=0.0)


def account(*markets, costs=FREE, first=WARM):
    return joint(backtest(segments_after(*markets, first=first), costs, buy_and_hold))


NY_HOURS = pd.DatetimeIndex([day + pd.Timedelta(hours=hour, minutes=30) for day in DAYS[:40] for hour in range(9, 16)])[
    :BARS
]
COPIES = {
    "daily at midnight and at four": (DAYS, DAYS + pd.Timedelta(hours=16), 0),
    "weekly on Fridays and on Mondays": (
        pd.date_range("2001-01-05", periods=BARS, freq="W-FRI"),
        pd.date_range("2001-01-01", periods=BARS, freq="W-MON"),
        0,
    ),
    "weekly on Sundays, which end the week, and on Tuesdays": (
        pd.date_range("2001-01-07", periods=BARS, freq="W-SUN"),
        pd.date_range("2001-01-02", periods=BARS, freq="W-TUE"),
        0,
    ),
    "monthly at the end and at the start": (
        pd.date_range("1990-01-01", periods=BARS, freq="ME"),
        pd.date_range("1990-01-01", periods=BARS, freq="MS"),
        0,
    ),
    "monthly on the last working day and at the start": (
        pd.date_range("1990-01-01", periods=BARS, freq="BME"),
        pd.date_range("1990-01-01", periods=BARS, freq="MS"),
        0,
    ),
    "hourly on the hour and at half past": (NY_HOURS - pd.Timedelta(minutes=30), NY_HOURS, 0),
    "hourly at half past and on the next hour": (NY_HOURS, NY_HOURS + pd.Timedelta(minutes=30), 0),
    "hourly with seconds": (NY_HOURS, NY_HOURS + pd.Timedelta(seconds=7), 0),
    "every five minutes, at its start and a minute before its end": (
        pd.date_range("2001-01-01", periods=BARS, freq="5min"),
        pd.date_range("2001-01-01 00:04", periods=BARS, freq="5min"),
        0,
    ),
    "hourly in New York and in Berlin": (NY_HOURS, NY_HOURS + pd.Timedelta(hours=6), 6),
    "hourly in New York and in Kolkata": (NY_HOURS, NY_HOURS + pd.Timedelta(hours=10), 10),
    "daily, the instants of midnight in UTC by the clock of New York": (DAYS, DAYS - pd.Timedelta(hours=5), -5),
    "daily at midnight in Berlin and at midnight in Tokyo": (DAYS, DAYS, 9),
    "monthly, midnight in UTC by the clock of New York": (
        pd.date_range("1990-01-01", periods=BARS, freq="MS"),
        pd.date_range("1990-01-01", periods=BARS, freq="MS") - pd.Timedelta(hours=5),
        -5,
    ),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_one_asset_with_other_stamps_are_that_asset(name):
    first, second, hours = COPIES[name]
    close = walk(0)
    alone = account(cycling_market("A", first, close))
    for order in (0, 1):
        both = [cycling_market("A", first, close), cycling_market("B", second, close, zone_hours=hours)]
        together = account(*(both[::-1] if order else both))
        assert len(together) == len(alone)
        np.testing.assert_allclose(together["return"], alone["return"], atol=1e-12)
        one, two = (figures(frame, 252) for frame in (alone, together))
        assert two == pytest.approx(one, rel=1e-9)
        assert together.index.is_monotonic_increasing


@pytest.mark.parametrize("missing", [0.02, 0.1])
@pytest.mark.parametrize("frequency", ["D", "B", "W-FRI", "MS", "h"])
def test_copies_that_lack_other_bars_are_that_asset(frequency, missing):
    """
    Where one copy lacks a bar, its half of the money lags by it. The growth is the same; the way to it is smoother by
    as much as bars are missing.
    """
    rng = np.random.default_rng(3)
    stamps = pd.date_range("2001-01-01", periods=BARS, freq=frequency)
    close = walk(1)
    lacking = rng.random((2, BARS)) < missing
    lacking[1] &= ~lacking[0]
    lacking[:, : WARM + 1] = lacking[:, -1] = False
    copies = [
        cycling_market(name, stamps, close, kept=np.flatnonzero(~row)) for name, row in zip("AB", lacking, strict=True)
    ]
    at_close = replace(FREE, fill="close")
    alone, together = account(cycling_market("A", stamps, close), costs=at_close), account(*copies, costs=at_close)
    assert len(together) == len(alone) == BARS - WARM
    assert together["equity"].iloc[-1] == pytest.approx(close[-1] / close[WARM - 1], rel=1e-12)
    one, two = (figures(frame, 252) for frame in (alone, together))
    assert two["total_return"] == pytest.approx(one["total_return"], rel=1e-9)
    assert two["max_drawdown"] == pytest.approx(one["max_drawdown"], abs=0.01)
    assert two["sharpe_ratio"] == pytest.approx(one["sharpe_ratio"], abs=missing / 2)
    assert together["position"].iloc[1:].to_numpy() == pytest.approx(1.0)


def ledger(closes, first):
    """
    Shares bought once with equal money at the first close of each asset that is there then, kept, and valued at each
    row at the last close. Money of an asset that is not there yet waits; so does what an asset leaves behind.

    :param closes: one column per asset, NaN without a bar
    :param first: row at whose close the first ones are bought
    """
    money, shares, values = {}, {}, []
    for name in closes:
        money[name] = 1 / len(closes.columns)
    for row in range(first, len(closes)):
        value = 0.0
        for name in closes:
            known = closes[name].iloc[: row + 1].dropna()
            if name not in shares and len(known) and row >= first:
                shares[name] = money.pop(name) / known.iloc[-1]
            value += shares[name] * known.iloc[-1] if name in shares else money[name]
        values.append(value)
    return pd.Series(values, index=closes.index[first:])


def test_a_stock_beside_a_coin_of_seven_days_is_a_ledger_of_shares():
    days = pd.date_range("2001-01-01", periods=BARS)  # a Monday
    stock_days = days[days.day_of_week < 5]
    stock, coin = walk(4, len(stock_days)), walk(5)
    closes = pd.DataFrame({"S": pd.Series(stock, stock_days), "C": pd.Series(coin, days)})
    begin = 35  # a Monday; the last closes before it are Friday's and Sunday's
    segments = [
        Segment.scaled_by(
            one, range(int((one.dates < days[begin].to_datetime64()).sum()), len(one.close)), range(len(one.close))
        )
        for one in (cycling_market("S", stock_days, stock), cycling_market("C", days, coin))
    ]
    together = joint(backtest(segments, replace(FREE, fill="close"), buy_and_hold))
    expected = ledger(closes, begin - 1)
    np.testing.assert_allclose(together["equity"], expected.iloc[1:] / expected.iloc[0], rtol=1e-12)
    assert len(together) == BARS - begin
    assert (together.index.day_of_week >= 5).sum() == 52  # of 185 days from a Monday on, 26 whole weeks and 3 days


def test_holidays_that_are_not_shared_are_a_ledger_of_shares():
    rng = np.random.default_rng(6)
    closes = pd.DataFrame({name: walk(seed) for seed, name in enumerate("ABC")}, index=DAYS)
    closed = rng.random(closes.shape) < 0.08
    closed[: WARM + 1] = closed[-1] = False
    closes = closes.mask(closed)
    assert closes.notna().any(axis=1).all()
    markets = [
        cycling_market(name, DAYS, closes[name].to_numpy(), kept=np.flatnonzero(closes[name].notna())) for name in "ABC"
    ]
    together = joint(backtest(segments_after(*markets), replace(FREE, fill="close"), buy_and_hold))
    expected = ledger(closes, WARM - 1)
    np.testing.assert_allclose(together["equity"], expected.iloc[1:], rtol=1e-12)


def test_money_waits_for_an_asset_that_is_listed_later_and_rests_after_one_that_leaves():
    """Half of the account earns nothing before B is there, and nothing after A has left."""
    a, b = walk(7, 120), walk(8, 150)
    together = account(cycling_market("A", DAYS[:120], a), cycling_market("B", DAYS[50:200], b))
    assert len(together) == 200 - WARM
    assert together["return"].iloc[0] == pytest.approx((a[WARM] / a[WARM] - 1) / 2)  # bought at the open, which is it
    growth = (a[-1] / a[WARM] + b[-1] / b[WARM]) / 2
    assert together["equity"].iloc[-1] == pytest.approx(growth, rel=1e-12)
    assert together["position"].iloc[10] == pytest.approx(a[WARM + 10] / (a[WARM + 10] + a[WARM]))
    left = together.iloc[-1]
    assert left["position"] == pytest.approx(b[-1] / b[WARM] / (2 * growth))


def test_two_bars_of_one_symbol_in_a_row_compound():
    """B has a second bar on the afternoon of five days."""
    close = walk(9)
    stamps = list(DAYS)
    twice = [40, 80, 120, 160, 200]
    for day in twice:
        stamps[day] = DAYS[day - 1] + pd.Timedelta(hours=16)
    together = account(cycling_market("A", DAYS, close), cycling_market("B", stamps, close))
    assert len(together) == BARS - WARM
    rows = np.array(twice) - 1 - WARM
    before = close[rows + WARM - 1]
    both = (close[rows + WARM] + close[rows + WARM + 1]) / 2
    assert together["return"].to_numpy()[rows] == pytest.approx(both / before - 1)
    assert together["return"].to_numpy()[rows + 1] == pytest.approx(close[rows + WARM + 1] / both - 1)


def test_one_symbol_keeps_its_own_frame():
    frames = backtest(segments_after(cycling_market("A", DAYS, walk(0))), FREE, buy_and_hold)
    assert joint(frames) is frames["A"]


def test_the_bars_of_a_regime_are_those_of_the_account():
    """Copies of one asset are in one regime in the same rows, whatever their stamps: as many bars, one Sharpe ratio."""
    close = walk(10)
    of = [cycling_market("A", DAYS, close), cycling_market("B", DAYS + pd.Timedelta(hours=16), close)]
    alone, both = (
        figures_by_regime(Account(backtest(segments_after(*markets), FREE, buy_and_hold)), 252)
        for markets in (of[:1], of)
    )
    for regime, cell in alone.items():
        assert both[regime] == pytest.approx(cell, rel=1e-9)
        assert cell["bars"] >= 40


def test_a_symbol_without_a_bar_counts_in_the_regime_of_its_last_one():
    """A has every bar, B lacks a calm one. B's next return spans two rows and counts once, on B's money."""
    close = walk(11)
    kept = np.delete(np.arange(BARS), 42)
    frames = backtest(
        segments_after(cycling_market("A", DAYS, close), cycling_market("B", DAYS, close, kept=kept)),
        FREE,
        buy_and_hold,
    )
    index = [10.0, 20.0, 30.0, 50.0]
    rows = [row for row in range(WARM, BARS) if index[row // 10 % 4] == 10.0]
    table = figures_by_regime(Account(frames), 252)
    assert 42 in rows
    assert table["calm"]["bars"] == len(rows)
    returns, a, b = [], 1.0, 1.0
    for row in range(WARM, BARS):
        before = a + b
        step = close[row] / close[max(row - 1, WARM)]
        a *= step
        if row == 43:
            b *= close[43] / close[41]
        elif row != 42:
            b *= step
        if row in rows:
            returns.append((a + b) / before - 1)
    expected = sqrt(252) * np.mean(returns) / np.std(returns, ddof=1)
    assert table["calm"]["sharpe_ratio"] == pytest.approx(expected, rel=1e-9)


def test_a_row_belongs_to_a_regime_only_if_a_bar_is_in_it():
    """The stock is calm throughout and the coin in a crash: on weekends nothing calm has a bar."""
    days = pd.date_range("2001-01-01", periods=BARS)
    work = days[days.day_of_week < 5]
    stock, coin = cycling_market("S", work, walk(4, len(work))), cycling_market("C", days, walk(5))
    stock, coin = (replace(one, index=np.full(len(one.close), level)) for one, level in ((stock, 10.0), (coin, 50.0)))
    frames = backtest(segments_after(stock, coin), FREE, buy_and_hold)
    table = figures_by_regime(Account(frames), 365)
    assert table["calm"]["bars"] == len(frames["S"])
    assert table["crash"]["bars"] == len(frames["C"])
    returns = frames["S"]["return"]
    assert table["calm"]["sharpe_ratio"] == pytest.approx(sqrt(365) * returns.mean() / returns.std())


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_what_is_bought_once_turns_over_once_and_pays_once(fill):
    """Each of the accounts of 1/3 buys for the fee of 30 bp: 1 / 1.003 of it, and holds it to the end."""
    closes = [walk(20 + seed) for seed in range(3)]
    markets = [cycling_market(name, DAYS, close) for name, close in zip("ABC", closes, strict=True)]
    frames = backtest(segments_after(*markets), TradingCosts(fee_bp=30.0, fill=fill), buy_and_hold)
    together = joint(frames)
    bought = WARM - (fill == "close")
    growth = np.mean([close[-1] / close[bought] for close in closes]) / 1.003
    assert together["equity"].iloc[-1] == pytest.approx(growth, rel=1e-12)
    assert together["gross_equity"].iloc[-1] == pytest.approx(growth * 1.003, rel=1e-12)
    computed = figures(together, 252)
    years = len(together) / 252
    assert computed["turnover_per_year"] == pytest.approx(1 / 1.003 / years)
    assert computed["costs_per_year"] == pytest.approx(0.003 / 1.003 / years)
    assert computed["exposure"] == pytest.approx(1.0)


def test_a_symbol_is_annualised_by_its_bars_and_the_account_by_its_rows():
    """A stock beside a coin: 252 bars a year alone, 365 rows together. One purchase over T bars: 252 / T a year."""
    stock = walk(1)
    days = pd.date_range("2001-01-01", periods=BARS)
    weekend = days.day_of_week >= 5
    segments = segments_after(
        cycling_market("STOCK", days, stock, kept=~weekend), cycling_market("COIN", days, walk(2))
    )
    hold = backtest(segments, FREE, buy_and_hold)
    result = summary({"agent": Account(hold)}, 252.0, 365.0)
    for symbol in ("STOCK", "COIN"):
        returns = hold[symbol]["return"]
        alone = result["symbols"][symbol]["agent"]
        assert alone["sharpe_ratio"] == pytest.approx(sqrt(252) * returns.mean() / returns.std())
        assert alone["turnover_per_year"] == pytest.approx(252 / len(returns))
        assert alone["bars"] == len(returns)
    returns = joint(hold)["return"]
    together = result["joint"]["agent"]
    assert together["sharpe_ratio"] == pytest.approx(sqrt(365) * returns.mean() / returns.std())
    assert together["turnover_per_year"] == pytest.approx(365 / len(returns), rel=0.05)  # of shares of later equity
