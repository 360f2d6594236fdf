"""A cell of a comparison: one variant trained on one fold with one seed, and measured like all others."""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule, explained_variance

from market_regimes.compare.measurements import (
    Figures,
    Measurements,
    calibration_error,
    defined,
    fit_of,
    gaps_of,
)
from market_regimes.compare.probe import Probe
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.evaluate.account import Account
from market_regimes.evaluate.evaluation import Evaluation, evaluate
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest, discounted
from market_regimes.evaluate.strategies import COMPARED, HOLD, buy_and_hold
from market_regimes.market.environment import REWARD_SCALE
from market_regimes.market.regimes import MIN_REGIME_DAYS, groups_of
from market_regimes.market.segments import Segments, segments_of
from market_regimes.run.agent import critic_of
from market_regimes.run.study import Study


@dataclass(frozen=True)
class Cell:
    """
    Settings of a cell.

    :param label: name of the market
    :param fold: name of the fold
    :param variant: name of the variant
    :param seed: seed of the run
    :param run: settings of the run
    :param market: data with the fold's training and test periods
    :param algorithm: keyword arguments of ``DistributionalPPO`` as in YAML
    :param vf_coef_of: variant whose mean weight multiplies ``vf_coef``, in the cell of the same fold and seed
    :param adaptive_kl: see ``KLAdaptiveRate``
    :param segments: the fold's training and test period, None: read from the market
    """

    label: str
    fold: str
    variant: str
    seed: int
    run: RunConfig
    market: MarketConfig
    algorithm: dict[str, Any]
    vf_coef_of: str | None = None
    adaptive_kl: float | None = None
    segments: Segments | None = field(default=None, compare=False, repr=False)


class KLAdaptiveRate(BaseCallback):
    """
    Adapt the learning rate as rsl_rl does: lower it after large moves of the policy, raise it after small ones.

    :param desired: target of ``train/approx_kl``. The rate falls above twice the target and rises below half of it
    """

    FACTOR = 1.5
    LOW = 1e-5
    HIGH = 1e-2

    def __init__(self, desired: float):
        super().__init__()
        self.desired = desired

    def _on_rollout_start(self) -> None:
        kl = self.logger.name_to_value.get("train/approx_kl")
        if kl is None:  # before the first update
            return

        rate = self.model.lr_schedule(1.0)
        if kl > 2 * self.desired:
            rate = max(rate / self.FACTOR, self.LOW)
        elif kl < self.desired / 2:
            rate = min(rate * self.FACTOR, self.HIGH)
        self.model.lr_schedule = ConstantSchedule(rate)

    def _on_step(self) -> bool:
        return True


TEST_FIGURES = {
    "sharpe_ratio": "sharpe",
    "sortino_ratio": "sortino",
    "max_drawdown": "max_drawdown",
    "turnover_per_year": "turnover",
    "costs_per_year": "costs",
    "exposure": "exposure",
}


def _trading(account: Account, rows_per_year: float, prefix: str) -> Figures:
    """Compute figures of an account, overall and for the days of each regime."""
    parts = {"": account.joint}
    names = account.regimes
    for group, members in groups_of(names).items():
        days = account.in_regimes([names[i] for i in members])
        if len(days) >= MIN_REGIME_DAYS:
            parts[f"_{group}"] = days

    result: Figures = {}
    for suffix, days in parts.items():
        all_figures = figures(days, rows_per_year)
        for name, short in TEST_FIGURES.items():
            result[f"{prefix}_{short}{suffix}"] = all_figures[name]
        result[f"{prefix}_mean_reward{suffix}"] = float(REWARD_SCALE * np.log1p(days["return"]).mean())
    return result


def _critic(evaluation: Evaluation) -> Figures:
    """Measure how well the critic predicted the agent's returns, overall and by regime."""
    quantiles, realised = evaluation.predicted_and_realised
    regime = np.concatenate([frame["regime"].to_numpy() for frame in evaluation.predicted_frames.values()])

    # Returns are undefined after ruin.
    defined_rows = np.isfinite(realised)
    quantiles = quantiles[defined_rows].astype(np.float64)
    realised = realised[defined_rows]
    regime = regime[defined_rows]

    result: Figures = {
        "test_calibration_error": calibration_error(quantiles, realised),
        "test_explained_variance": defined(explained_variance(quantiles.mean(axis=1), realised)),
    }
    names = evaluation.agent.regimes
    for group, members in groups_of(names).items():
        rows = np.isin(regime, [names[i] for i in members])
        if rows.sum() >= MIN_REGIME_DAYS:
            fit = fit_of(quantiles[rows].mean(axis=1), quantiles[rows].var(axis=1), realised[rows])
            result |= {f"test_{figure}_{group}": value for figure, value in fit.items()}
    return result | gaps_of(result, "test_value_error")


def _test(study: Study) -> tuple[Figures, pd.DataFrame]:
    """Compute figures of the test period, and collect its days."""
    evaluation = evaluate(
        study.agent(),
        study.segments["test"],
        study.trading,
        critic_of(study.model),
        table=COMPARED,
        portfolio=study.portfolio,
    )
    result = _trading(evaluation.agent, evaluation.rows_per_year, "test")
    result |= gaps_of(result, "test_sharpe") | gaps_of(result, "test_mean_reward")

    # Buy-and-hold gets all figures, other strategies the Sharpe ratio and growth.
    result |= _trading(evaluation.strategies[HOLD], evaluation.rows_per_year, HOLD.key)
    for strategy, sharpe_ratio in evaluation.sharpe_ratios.items():
        result[f"{strategy.key}_sharpe"] = sharpe_ratio
    result["test_attained"] = evaluation.share_of_attainable

    # Growth beside them.
    result["test_growth"] = evaluation.growth
    for strategy, growth in evaluation.growths.items():
        result[f"{strategy.key}_growth"] = growth
    result["test_attained_growth"] = evaluation.share_of_attainable_growth
    result |= _critic(evaluation)

    # Collect the days of all strategies.
    days = evaluation.agent.joint[["return", "position", "index"]]
    returns = {each.key: account.joint["return"] for each, account in evaluation.strategies.items()}
    return result, days.assign(**returns)


def fixed_std(study: Study) -> float:
    """
    Compute the unit of the common loss, which compares all variants.

    :param study: a run on the market
    :return: standard deviation of buy-and-hold's discounted rewards over the training period, in raw units
    """
    frames = backtest(study.segments["train"], study.trading, buy_and_hold)
    std = float(np.nanstd(discounted(frames, np.zeros(len(frames)), study.model.gamma)))

    # A symbol has 1/K of an account.
    if study.portfolio.training == "account":
        return std / len(frames)
    return std


def run_cell(cell: Cell) -> dict[str, Any]:
    """
    Train and measure a cell.

    :param cell: its settings
    :return: "figures", "curves" and "daily", each by name, "bars_per_year" and "seconds", for JSON
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # shown once, when cells were made
        warnings.simplefilter("ignore")

        # Build the run and its measurements.
        segments = cell.segments or segments_of(cell.market, ("train", "test"))
        study = Study(cell.run, cell.market, {**cell.algorithm, "seed": cell.seed}, segments)
        probe = Probe(study.segments["train"], study.trading, study.model.gamma, study.portfolio)
        measurements = Measurements(study.core, probe, fixed_std(study))
        callbacks: list[BaseCallback] = [measurements]
        if cell.adaptive_kl is not None:
            callbacks.append(KLAdaptiveRate(cell.adaptive_kl))

        # Train, then test.
        study.model.learn(cell.run.total_timesteps, callbacks)
        tested, days = _test(study)
        result = {**measurements.figures(), **tested}

    curves = pd.DataFrame(measurements.curves).rename(columns={"quantile_variance_mean": "quantile_variance"})
    return {
        "figures": result,
        "curves": {name: [defined(value) for value in curves[name]] for name in curves},
        "daily": {
            "date": [str(day) for day in days.index],
            **{name: days[name].round(8).tolist() for name in days},
        },
        "bars_per_year": study.core.rows_per_year if study.core else None,
        "seconds": round(time.perf_counter() - start, 2),
    }
