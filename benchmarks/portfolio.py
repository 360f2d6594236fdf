"""
What is shared cash worth? Agents and rules in separate accounts and in one account. One row per run in a CSV.

    pip install -c constraints.txt -e ".[market,test]"
    python benchmarks/portfolio.py              # runs what the CSV lacks, then writes the table of RESULTS.md
    python benchmarks/portfolio.py --seeds 0    # only the table of the rows there are

Agents are trained symbol by symbol with configs/train.yaml for 100,000 steps; and for 409,600 steps with large
minibatches, symbol by symbol or in 32 accounts, whose steps count once for each of 20 symbols. The best model by
validation is played on the test period; one of symbol by symbol with separate accounts, then with shared cash.

The stocks are 20 of the S&P 500 that ship with skfolio, closes of 1990 to 2022. They were chosen in 2022 among those
that had survived, so their growth is no one's forecast.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.learning import arguments, run_missing
from benchmarks.results import markdown, with_tables
from market_regimes.config import MarketConfig, PortfolioConfig, RunConfig
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.evaluate.figures import figures, share_of_attainable
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.portfolio import (
    ESTIMATE_EVERY,
    Bench,
    WeightRule,
    bought_once,
    equal_weights_every,
    in_one_account,
    inverse_volatility,
    optimised,
    play_account,
)
from market_regimes.evaluate.strategies import fitted, informed, informed_in_account
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

ROOT = Path(__file__).parent.parent
CELLS = Path(__file__).with_suffix(".csv")
PAGE = ROOT / "RESULTS.md"
SETTINGS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "configs" / "train.yaml").read_text())
SEEDS = 3
SHARED = PortfolioConfig(cash="shared")
SEPARATE = PortfolioConfig()
STOCKS = "20 stocks of the S&P 500"
MARKETS = ("synthetic", "synthetic_choice", STOCKS)
MEASURES = ("growth", "sharpe", "turnover")


class Variant(NamedTuple):
    """
    A way to train.

    :param training: the account that it is trained and validated in
    :param plays: the accounts that it is tested in, "separate" or "shared" cash
    :param run: keys of ``run`` that lie over those of configs/train.yaml
    :param algorithm: keys of ``algorithm`` that lie over those of configs/train.yaml
    """

    training: PortfolioConfig
    plays: tuple[str, ...]
    run: dict[str, Any]
    algorithm: dict[str, Any]


# 640 rows of 32 accounts, or as many samples per update of 32 agents of one symbol.
LONGER = {"total_timesteps": 409_600, "eval_every": 40_960, "checkpoint_every": 409_600, "n_envs": 32}
VARIANTS = {
    "agent, trained symbol by symbol": Variant(SEPARATE, ("separate", "shared"), {}, {}),
    "agent, trained symbol by symbol, longer": Variant(
        SEPARATE,
        ("separate", "shared"),
        LONGER,
        {"n_steps": 160, "batch_size": 1024},
    ),
    "agent, trained in the account": Variant(
        PortfolioConfig(cash="shared", training="account"),
        ("shared",),
        LONGER,
        {"n_steps": 8, "batch_size": 1024},
    ),
}

# Allocations of one account, which need no forecast.
ALLOCATIONS: dict[str, Callable[[Bench], WeightRule]] = {
    "bought once": bought_once,
    "equal weights, daily": equal_weights_every,
    "equal weights, monthly": lambda bench: equal_weights_every(bench, ESTIMATE_EVERY),
    "inverse volatility, daily": inverse_volatility,
    "minimum variance, monthly": lambda bench: optimised(bench, "minimum variance"),
    "risk parity, monthly": lambda bench: optimised(bench, "risk parity"),
}
RULES = ("fitted rule", "informed rule")
HOLD = "bought once"
INFORMED = "informed rule"


class Cell(NamedTuple):
    """A run; what is no agent has seed 0."""

    market: str
    variant: str
    seed: int


def cells(seeds: int) -> list[Cell]:
    """All runs, the rules first, then agents seed by seed."""
    runs = [Cell(*key, 0) for key in itertools.product(MARKETS, [*ALLOCATIONS, *RULES])]
    runs = [cell for cell in runs if not (cell.market == STOCKS and cell.variant == INFORMED)]  # nobody knows that law
    runs += [
        Cell(market, variant, seed) for seed, market, variant in itertools.product(range(seeds), MARKETS, VARIANTS)
    ]
    return runs


def config_of(market: str) -> MarketConfig:
    """The market of a name; the stocks have the periods of data that state none."""
    if market != STOCKS:
        return MarketConfig(data=market)
    found = importlib.util.find_spec("skfolio")
    assert found is not None
    assert found.origin is not None
    return MarketConfig(data=str(Path(found.origin).parent / "datasets" / "data" / "sp500_dataset.csv.gz"))


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train, or follow a rule, and measure on the test period."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.process_time()
    measured = _of_agent(cell) if cell.variant in VARIANTS else _of_rule(cell)

    row: dict[str, Any] = cell._asdict()
    for cash, measure in itertools.product(("separate", "shared"), MEASURES):
        row[f"{measure}_{cash}"] = measured.get(cash, {}).get(measure)
    return row | {"seconds": round(time.process_time() - start, 1)}


def _of_agent(cell: Cell) -> dict[str, dict[str, float]]:
    """Figures of a trained agent by cash."""
    variant = VARIANTS[cell.variant]
    market = config_of(cell.market)
    market.portfolio = variant.training
    algorithm = {**SETTINGS["algorithm"], **variant.algorithm, "seed": cell.seed}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = {**SETTINGS["run"], **variant.run, "out": folder, "progress_bar": False}
        study = Study(RunConfig(**settings), market, algorithm)
        study.start()

    # The best model by validation.
    measured = {}
    for cash in variant.plays:
        played = variant.training
        if played.cash != cash:
            played = SHARED if cash == "shared" else SEPARATE
        evaluation = evaluate(study.agent(), study.segments["test"], study.trading, portfolio=played)
        measured[cash] = _measured(evaluation.agent.joint, evaluation.rows_per_year)
    return measured


def _of_rule(cell: Cell) -> dict[str, dict[str, float]]:
    """Figures of a rule by cash; an allocation has one account."""
    segments = segments_of(config_of(cell.market))["test"]
    rows_per_year = segments[0].market.account_rows_per_year
    trading = MarketConfig().trading
    bench = Bench.of(segments, trading)
    if cell.variant in ALLOCATIONS:
        played = play_account(bench, ALLOCATIONS[cell.variant](bench), SHARED)
        return {"shared": _measured(played.account, rows_per_year)}

    # Rules that decide symbol by symbol; the informed one knows whether cash is shared.
    separate = fitted(segments, trading)
    shared = separate
    if cell.variant == INFORMED:
        separate = informed(segments, trading)
        shared = informed_in_account(segments, trading, SHARED)
    assert separate is not None
    assert shared is not None
    return {
        "separate": _measured(joint(backtest(segments, trading, separate)), rows_per_year),
        "shared": _measured(in_one_account(bench, shared, SHARED).account, rows_per_year),
    }


def _measured(account: pd.DataFrame, rows_per_year: float) -> dict[str, float]:
    """Log growth a year in per cent, Sharpe ratio, turnover a year."""
    found = figures(account, rows_per_year)
    growth = 100 * rows_per_year * float(np.log1p(account["return"]).mean())
    return {
        "growth": round(growth, 3),
        "sharpe": round(float(found["sharpe_ratio"] or 0.0), 4),
        "turnover": round(float(found["turnover_per_year"] or 0.0), 3),
    }


def portfolio_table(found: pd.DataFrame) -> str:
    """Markdown: a row for each market, strategy and kind of cash; of several seeds the median and, in brackets, all."""
    rows = []
    for market, variant in itertools.product(MARKETS, [*ALLOCATIONS, *RULES, *VARIANTS]):
        of_variant = found[(found["market"] == market) & (found["variant"] == variant)].sort_values("seed")
        for cash in ("separate", "shared"):
            if of_variant[f"growth_{cash}"].notna().any():
                rows.append(_row(found, market, variant, cash, of_variant))
    return markdown(pd.DataFrame(rows))


def _row(found: pd.DataFrame, market: str, variant: str, cash: str, of_variant: pd.DataFrame) -> dict[str, str]:
    """Of a strategy with separate or shared cash."""
    label = cash
    if variant in ALLOCATIONS:
        label = "one account"
    row = {"market": market, "strategy": variant, "cash": label}
    for measure, name, form in (("growth", "growth a year, %", ".1f"), ("sharpe", "Sharpe ratio", ".2f")):
        values = of_variant[f"{measure}_{cash}"].astype(float)
        row[name] = _text(values, form)
        shares = [_share(found, market, cash, measure, value) for value in values]
        row[f"attained of {measure}"] = _text(pd.Series(shares, dtype=float), ".2f")
    row["turnover a year"] = _text(of_variant[f"turnover_{cash}"].astype(float), ".1f")
    return row


def _share(found: pd.DataFrame, market: str, cash: str, measure: str, value: float) -> float | None:
    """Share of the way from buying once to the informed rule with the same cash; None where nobody knows the law."""
    of_market = found[found["market"] == market].set_index("variant")
    if INFORMED not in of_market.index:
        return None
    hold = float(of_market.loc[HOLD, "growth_shared" if measure == "growth" else "sharpe_shared"])
    attainable = float(of_market.loc[INFORMED, f"{measure}_{cash}"])
    return share_of_attainable(value, hold, attainable)


def _text(values: pd.Series[float], form: str) -> str:
    """The median, and all values from the smallest to the largest where there are several."""
    values = values.dropna()
    if values.empty:
        return "n/a"
    text = f"{values.median():{form}}"
    if len(values) == 1:
        return text
    every = ", ".join(f"{value:{form}}" for value in sorted(values))
    return f"{text} [{every}]"


def main() -> None:
    args = arguments(__doc__, SEEDS)
    todo = cells(args.seeds) if args.seeds else []
    found = run_missing(CELLS, todo, run_cell, args.workers)
    PAGE.write_text(with_tables(PAGE.read_text(), {"portfolio": portfolio_table(found)}))


if __name__ == "__main__":
    main()
