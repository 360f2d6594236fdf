"""An agent over a period of the market beside other trading rules: scores, and the files of an evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.config import TradingCosts
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.evaluate.figures import (
    figures,
    figures_by_regime,
    joint,
    rank_among,
    share_of_attainable,
    summary,
)
from market_regimes.evaluate.pictures import picture_of_equity, tear_sheet
from market_regimes.evaluate.play import backtest, fill_times, positions, random_timing, trades
from market_regimes.evaluate.robustness import robustness
from market_regimes.evaluate.rules import buy_and_hold, fitted, informed, own_rule, volatility_targeting
from market_regimes.files import write_file
from market_regimes.market.environment import REWARD_SCALE
from market_regimes.market.segments import Segment

Frames = dict[str, pd.DataFrame]
MIN_BARS_OF_RATIO = 60  # fewer make a curve of Sharpe ratios that is noise


def scores_of(frames: Frames, bars_per_year: float) -> dict[str, float | None]:
    """
    :param frames: the agent's ``backtest`` of the validation period
    :param bars_per_year: what annualises
    :return: what an evaluation during training logs
    """
    account = joint(frames)
    all_figures = figures(account, bars_per_year)
    scores = {name: all_figures[name] for name in ("sharpe_ratio", "max_drawdown")}
    scores["mean_reward"] = float(REWARD_SCALE * np.log1p(account["return"]).sum())

    # By regime, where there are enough bars.
    for regime, cell in figures_by_regime(frames, bars_per_year).items():
        enough = (cell["bars"] or 0) >= MIN_BARS_OF_RATIO
        scores[f"sharpe_{regime}"] = cell["sharpe_ratio"] if enough else None
    return scores


def benchmarks(segments: Sequence[Segment], trading: TradingCosts) -> dict[str, Frames]:
    """
    :param segments: what is traded
    :param trading: what trading costs and what the agent may hold
    :return: by name the backtests of buy-and-hold, volatility targeting and the fitted rule; of equal weights where
        there are several symbols, of the own rule where there is one, and of the informed rule where the law is known.
        They may hold ``TradingCosts.of_rules``
    """
    free = trading.of_rules
    rules = {
        "buy and hold": buy_and_hold,
        "own rule": own_rule(segments),
        "volatility target": volatility_targeting(segments),
        "fitted rule": fitted(segments, free),
        "informed rule": informed(segments, free),
    }
    backtests = {name: backtest(segments, free, rule) for name, rule in rules.items() if rule is not None}
    if len(segments) == 1:
        return backtests

    # Equal weights stand beside buy-and-hold.
    hold = backtests.pop("buy and hold")
    return {"buy and hold": hold, "equal weights": equal_weights(segments, free), **backtests}


def benchmark_scores(benchmarks: dict[str, Frames], bars_per_year: float) -> dict[str, float | None]:
    """
    :param benchmarks: by name
    :param bars_per_year: what annualises
    :return: their Sharpe ratios as ``sharpe_NAME``, beside which an evaluation during training logs the agent's
    """
    return {
        f"sharpe_{name.replace(' ', '_')}": figures(joint(frames), bars_per_year)["sharpe_ratio"]
        for name, frames in benchmarks.items()
    }


def compared(
    agent: Frames, segments: Sequence[Segment], trading: TradingCosts, bars_per_year: float, seed: int, step: int
) -> tuple[dict[str, Frames], dict[str, Any]]:
    """
    :param agent: its ``backtest``
    :param segments: what it traded
    :param trading: what trading costs and what may be held
    :param bars_per_year: what annualises the figures of the account, whose rows it counts
    :param seed: of the random timings
    :param step: that the agent was trained to
    :return: the backtests of the agent, of the ``benchmarks`` and of the agent's trades at random times, by name; and
        their ``summary``, with the step, the ``Rank`` of the agent among the random timings, the
        ``share_of_attainable`` and the ``robustness`` of the agent's lead over buy-and-hold
    """
    shifted, sharpe_of_shifts = random_timing(segments, trading, agent, seed)
    strategies = {"agent": agent, **benchmarks(segments, trading), "random timing": shifted}
    result = {**summary(strategies, segments[0].market.bars_per_year, bars_per_year), "step": step}
    sharpes = {name: all_figures["sharpe_ratio"] for name, all_figures in result["joint"].items()}
    sharpe = sharpes["agent"]
    result["share_of_attainable"] = share_of_attainable(sharpe, sharpes["buy and hold"], sharpes.get("informed rule"))

    # The agent's rank among its copies, of which those without a Sharpe ratio do not count.
    rank = None if sharpe is None else rank_among(joint(agent)["return"], sharpe_of_shifts)
    result["random_timings"] = 0 if rank is None else rank.copies
    result["random_timings_below_agent"] = None if rank is None else rank.below
    result["random_timings_equal_to_agent"] = None if rank is None else rank.equal
    result["share_of_random_timings_below_agent"] = None if rank is None else rank.share

    # How far the lead over buy-and-hold carries.
    hold = joint(strategies["buy and hold"])
    result["robustness"] = robustness(agent, hold, segments, trading, bars_per_year)
    return strategies, result


def write_evaluation(
    folder: Path,
    name: str,
    strategies: dict[str, Frames],
    segments: Sequence[Segment],
    result: dict[str, Any],
    bars_per_year: float,
    trading: TradingCosts,
) -> str:
    """
    Write ``evaluation-NAME.json``, ``positions-NAME.csv``, ``trades-NAME.csv``, ``tearsheet-NAME.html`` and
    ``equity-NAME.png``.

    :param folder: run folder
    :param name: of the period, in file names and titles
    :param strategies: from ``compared``
    :param segments: what was traded
    :param result: what the JSON holds
    :param bars_per_year: what annualises
    :param trading: when orders are filled
    :return: first and last day, for titles
    """
    write_file(folder / f"evaluation-{name}.json", json.dumps(result, indent=2))
    accounts = {each: joint(frames) for each, frames in strategies.items()}
    agent = strategies["agent"]

    # Title, pictures, tables.
    days = " to ".join(str(day) for day in accounts["agent"].index[[0, -1]].date)
    title = f"{', '.join(agent) if len(agent) <= 3 else f'{len(agent)} symbols'}, {name}: {days}"
    picture_of_equity(accounts, folder / f"equity-{name}.png", title)
    trades(agent, fill_times(segments, trading)).to_csv(folder / f"trades-{name}.csv")
    positions(agent, segments).to_csv(folder / f"positions-{name}.csv", index=False)

    # The tear sheet, which quantstats cannot make of all returns.
    returns = accounts["agent"]["return"]
    returns_of_hold = accounts["buy and hold"]["return"]
    try:
        tear_sheet(returns, returns_of_hold, folder / f"tearsheet-{name}.html", title, bars_per_year)
    except ValueError as error:
        print(f"tearsheet-{name}.html is left out: {error}", file=sys.stderr)
    return days


def name_of(data: Sequence[str], segments: Sequence[Segment]) -> str:
    """
    :param data: files and folders, none: the run's own
    :param segments: of them
    :return: name of an evaluation on them, fit for a file's name: the first file and the days whose returns are earned
    """
    first = min(segment.market.dates[segment.first + 1] for segment in segments).astype("M8[D]")
    last = max(segment.market.dates[segment.last] for segment in segments).astype("M8[D]")
    stems = [Path(entry).stem or "data" for entry in data[:1]]
    more = [f"and-{len(data) - 1}-more"] if len(data) > 1 else []
    return "-".join([*stems, *more, str(first), "to", str(last)])
