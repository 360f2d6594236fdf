"""
Every fill stands at the time and the price of the bar that filled it. Oracle: the file itself, read by pandas, and a
loop over its rows.
"""

import numpy as np
import pandas as pd
import pytest

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.evaluate.play import backtest, fill_times, trades
from market_regimes.market.data import read_bars
from market_regimes.market.market import market_of
from market_regimes.market.periods import period_of
from market_regimes.market.segments import Segment

FREQUENCIES = {"daily": "B", "weekly": "W-FRI", "hourly": "h", "monthly": "MS"}


def files_of(folder, make_prices, frequency, closes_only):
    """Two files; the second lacks opening prices where they are left out at all."""
    for i, name in enumerate("AB"):
        table = make_prices(300, seed=i, frequency=FREQUENCIES[frequency])
        columns = ["open"] if closes_only == "both" or (closes_only == "B" and name == "B") else []
        table.drop(columns=columns).to_csv(folder / f"{name}.csv", index=False)
    return [str(folder / f"{name}.csv") for name in "AB"]


@pytest.mark.parametrize("frequency", FREQUENCIES)
@pytest.mark.parametrize(("closes_only", "fill"), [("none", None), ("none", "close"), ("both", None), ("B", None)])
def test_the_price_of_a_trade_is_that_of_the_file_at_its_date(tmp_path, make_prices, frequency, closes_only, fill):
    """Targets alternate every third bar between 1 and 0, so the fills are known: each third bar from the first on."""
    entries = files_of(tmp_path, make_prices, frequency, closes_only)
    costs = TradingCosts(fee_bp=0.0, **({} if fill is None else {"fill": fill}))
    segments = []
    for bars in read_bars(MarketConfig(entries)):
        market = market_of(bars, MarketConfig(entries), range(300), 299)
        segments.append(Segment.scaled_by(market, range(101, 300), range(300)))
    targets = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    frames = backtest(segments, costs, lambda known: np.array([targets[(bar - 100) % 6] for bar in known.bar]))
    table = trades(frames, fill_times(segments, costs))
    for name, entry in zip("AB", entries, strict=True):
        prices = pd.read_csv(entry, parse_dates=["date"])
        at_close = fill == "close" or "open" not in prices
        mine = table[table["symbol"] == name]
        # Decided at the closes of bars 100, 103, ..., 298 at the latest; filled there, or at the next open.
        rows = [bar if at_close else bar + 1 for bar in range(100, 299, 3)]
        assert mine.index.tolist() == prices["date"].iloc[rows].tolist()
        assert mine["price"].tolist() == prices["close" if at_close else "open"].iloc[rows].tolist()
        assert mine["side"].tolist() == [("buy", "sell")[i % 2] for i in range(len(rows))]

        # Equity at the close of the bar that filled it: without costs it is what is held times the price.
        equity, cash, shares = [], 1.0, 0.0
        for bar in range(100, 300):
            decided = {True: bar, False: bar - 1}[at_close]
            price = prices["close" if at_close else "open"].iloc[bar]
            before = cash + shares * prices["close"].iloc[bar]
            if decided in range(100, 299):
                worth = cash + shares * price
                # A target that stays 1 is all that there is, one of 0 nothing.
                shares = targets[(decided - 100) % 6] * worth / price
                cash = worth - shares * price
            after = cash + shares * prices["close"].iloc[bar]
            if bar in rows:
                equity.append(before if at_close else after)
        assert mine["equity"].tolist() == pytest.approx(equity, rel=1e-9)


@pytest.mark.parametrize("closes_only", ["none", "both"])
def test_the_files_of_an_evaluation_date_fills_and_decisions(tmp_path, make_prices, closes_only):
    entries = files_of(tmp_path, make_prices, "daily", closes_only)
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(entries), dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)).start()
    agent = Agent.load(folder)
    agent.evaluate(agent.segments(entries), folder, "x")
    fills = pd.read_csv(folder / "trades-x.csv", parse_dates=["date"])
    decisions = pd.read_csv(folder / "positions-x.csv", parse_dates=["date"])
    column, later = ("open", 1) if closes_only == "none" else ("close", 0)
    assert len(fills) > 10
    for name, entry in zip("AB", entries, strict=True):
        prices = pd.read_csv(entry, parse_dates=["date"]).set_index("date")
        mine = fills[fills["symbol"] == name].set_index("date")
        assert mine["price"].tolist() == prices.loc[mine.index, column].tolist()

        # A decision of a close is filled there, or at the open of the next bar.
        decided = decisions[decisions["symbol"] == name].set_index("date")["target"]
        of_fill = prices.index[prices.index.get_indexer(mine.index) - later]
        assert mine["target"].tolist() == decided.loc[of_fill].tolist()


def test_periods_begin_with_a_fill_at_the_close_before_them(tmp_path, make_prices):
    """The first return of a period is earned by what was bought at the close before it."""
    (entry, _) = files_of(tmp_path, make_prices, "daily", "both")
    (bars,) = read_bars(MarketConfig(entry))
    market = market_of(bars, MarketConfig(entry), range(300), 299)
    period = period_of(market, "2000-06-01", "2000-12-29")
    segments = [Segment.scaled_by(market, period, range(300))]
    frames = backtest(segments, TradingCosts(), lambda known: np.ones(1))
    table = trades(frames, fill_times(segments, TradingCosts()))
    # 2000-06-01 is a Thursday: the order of Wednesday's close earns its return.
    assert (str(table.index[0].date()), len(table)) == ("2000-05-31", 1)
    assert table["equity"].iloc[0] == 1.0
