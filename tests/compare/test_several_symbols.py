"""A comparison on several symbols that lack other days: its days and its rules beside a ledger in plain pandas."""

import json

import numpy as np
import pandas as pd
import pytest

from market_regimes.compare.cell import run_cell
from market_regimes.compare.comparison import Comparison, cells_of
from market_regimes.compare.folds import folds_of
from market_regimes.compare.verdicts import tables_of, write_tables
from market_regimes.config import CompareConfig, MarketConfig, RunConfig, TradingCosts

ALGORITHM = dict(
    policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1, policy_kwargs=dict(n_quantiles=5)
)
FEE = 10.0  # in basis points
FIRST_TEST = "2002-01-01"


@pytest.fixture(scope="module")
def prices(make_prices):
    """A lacks Mondays of even weeks, B those of odd ones, C Tuesdays of even weeks and all days after June 2002."""
    table = {}
    for seed, symbol in enumerate("ABC"):
        frame = make_prices(700, seed)
        day = pd.to_datetime(frame["date"])
        even = day.dt.isocalendar().week % 2 == 0
        lacks = (day.dt.day_of_week == (1 if symbol == "C" else 0)) & (~even if symbol == "B" else even)
        gone = day > ("2002-06-28" if symbol == "C" else "2099-01-01")
        table[symbol] = frame[~lacks & ~gone].assign(symbol=symbol)
    return table


@pytest.fixture(scope="module")
def compared(prices, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    path = folder / "abc.csv"
    pd.concat(prices.values()).to_csv(path, index=False)
    market = MarketConfig(str(path), trading=TradingCosts(fee_bp=FEE, slippage_bp=0.0), episode_bars=60)
    compare = CompareConfig(first_test=FIRST_TEST, test_years=2, embargo_days=0, seeds="0-1")
    folds = folds_of(compare, market)
    run = RunConfig(total_timesteps=128, n_envs=2)
    variants = {"baseline": {}}
    cells = cells_of(compare, run, {"baseline": ALGORITHM}, variants, folds)
    comparison = Comparison(folder, cells)
    for i, cell in enumerate(cells):  # in this process, as starting another takes seconds
        comparison.paths[i].write_text(json.dumps({"status": "ok", **run_cell(cell)}))
    tables = tables_of(comparison, folds, variants, "baseline", [])
    write_tables(folder, tables, "baseline", "")
    return folder, tables, comparison


def bought_once(prices):
    """A third in each symbol, filled at the first open of the test period, and held: growth per union day."""
    days = pd.DatetimeIndex(sorted(set().union(*(pd.to_datetime(frame["date"]) for frame in prices.values()))))
    days = days[days >= FIRST_TEST]
    values = []
    for frame in prices.values():
        close = frame.set_index(pd.to_datetime(frame["date"]))["close"]
        opens = frame.set_index(pd.to_datetime(frame["date"]))["open"]
        inside = close[close.index >= FIRST_TEST]

        # Equity after the fee f of buying shares for all of it: e * 1 = e * (w + f w), paid at the open.
        paid = 1 - FEE / 1e4
        value = paid * inside / opens[inside.index[0]]
        values.append(value.reindex(days).ffill().fillna(1.0) / len(prices))
    equity = sum(values)
    return equity / equity.shift(fill_value=1.0) - 1


def test_hold_of_the_days_is_bought_once_on_the_union_of_days(compared, prices):
    _, tables, _ = compared
    days = tables.daily[tables.daily["seed"] == 0].set_index("date")
    expected = bought_once(prices)
    assert list(pd.to_datetime(days.index)) == list(expected.index)
    assert days["hold"].to_numpy() == pytest.approx(expected.to_numpy(), abs=2e-5)


def test_equal_weights_stand_in_the_table_and_the_report(compared):
    folder, tables, _ = compared
    (row,) = tables.sharpe.to_dict("records")
    daily = tables.daily[tables.daily["seed"] == 0]["equal"]
    per_year = tables.cells["bars_per_year"].iloc[0]
    assert row["equal"] == pytest.approx(daily.mean() / daily.std() * np.sqrt(per_year))
    assert tables.cells["equal_sharpe"].tolist() == pytest.approx([row["equal"]] * 2, abs=1e-4)
    assert "equal weights" in (folder / "report.html").read_text()
    assert "equal" in pd.read_csv(folder / "sharpe.csv")


def test_the_seeds_together_are_the_mean_of_their_days(compared):
    _, tables, comparison = compared
    by_seed = [comparison.result(i)["daily"]["return"] for i in range(2)]
    together = pd.Series(np.mean(by_seed, axis=0))
    per_year = tables.cells["bars_per_year"].iloc[0]
    expected = together.mean() / together.std() * np.sqrt(per_year)
    assert tables.sharpe["sharpe_seeds_together"].iloc[0] == pytest.approx(expected, rel=1e-5)
    assert tables.sharpe["years"].iloc[0] == pytest.approx(len(together) / per_year)
