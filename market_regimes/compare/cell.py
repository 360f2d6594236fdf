"""One cell of a comparison: a variant trained on one fold with one seed, and measured as every other variant is."""

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

from distributional_ppo import DistributionalPPO, quantile_huber_loss
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.evaluate.backtest import backtest, discounted
from market_regimes.evaluate.figures import figures, joint, joint_in
from market_regimes.evaluate.rules import buy_and_hold
from market_regimes.market.env import REWARD_SCALE, MarketCore
from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES
from market_regimes.market.segments import Segments, segments_of
from market_regimes.run.agent import predicted_and_realised
from market_regimes.run.callback import RolloutBars
from market_regimes.run.inputs import (
    Inputs,
    at_rows,
    inputs_of_rollout,
    is_recurrent,
    predict_quantiles,
    quantiles_of_loss,
)
from market_regimes.run.log import WEIGHT
from market_regimes.run.probes import (
    GRADIENT_SAMPLES,
    minibatches_of_rollout,
    value_gradient_norm,
    weights_by_minibatch,
    weights_of,
)
from market_regimes.run.study import Study

WARM_UP = 0.2  # share of the rollouts that the figures of training leave out
POOLED = 10  # rollouts from which the figures by regime are made, the last ones
GRADIENT_DRAWS = 100
OUTLIER_LOSS = 1.0  # of the fixed loss: all quantiles 2.5 standard deviations from the return
FIXED_KAPPA = 1.0
# Regimes, and the stormy ones together, which more folds have 20 days of.
GROUPS = {**{name: (i,) for i, name in enumerate(REGIMES)}, "stormy": (2, 3)}
Figures = dict[str, float | None]


@dataclass(frozen=True)
class Cell:
    """
    :param label: of the market
    :param fold: name
    :param variant: name
    :param seed: seed
    :param run: the run around the algorithm
    :param market: with the fold's periods for training and test
    :param algorithm: keyword arguments of ``DistributionalPPO`` as YAML has them
    :param vf_coef_of: variant whose mean weight, in the cell of the same fold and seed, multiplies ``vf_coef``
    :param adaptive_kl: see ``KLAdaptiveRate``
    :param segments: of the fold's training and test period; None: they are read
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
    A learning rate that falls when the policy moved too far in an update and rises when it hardly moved, as in rsl_rl.

    :param desired: ``train/approx_kl`` beyond twice of which the rate falls, below half of which it rises
    """

    FACTOR, LOW, HIGH = 1.5, 1e-5, 1e-2

    def __init__(self, desired: float):
        super().__init__()
        self.desired = desired

    def _on_rollout_start(self) -> None:
        kl = self.logger.name_to_value.get("train/approx_kl")
        if kl is None:  # nothing was updated yet
            return
        rate = self.model.lr_schedule(1.0)
        if kl > 2 * self.desired:
            rate = max(rate / self.FACTOR, self.LOW)
        elif kl < self.desired / 2:
            rate = min(rate * self.FACTOR, self.HIGH)
        self.model.lr_schedule = ConstantSchedule(rate)

    def _on_step(self) -> bool:
        return True


class Measurements(RolloutBars):
    """
    What the critic is worth, by a loss that is the same for all variants: quantile-Huber of the raw returns over a
    fixed standard deviation, of the predictions before the update.

    :param core: the environment's
    :param std: what one is in the loss, in raw units
    """

    def __init__(self, core: MarketCore | None, std: float):
        super().__init__(core)
        self.std = std
        self.curves: list[dict[str, float]] = []
        self.samples: list[dict[str, np.ndarray]] = []  # of the last rollouts

    def _on_rollout_start(self) -> None:
        super()._on_rollout_start()
        self._read_update()

    def _on_training_end(self) -> None:
        self._read_update()

    def _read_update(self) -> None:
        """The scalars of the update that followed the last rollout."""
        scalars = self.logger.name_to_value
        if self.curves and "train/value_loss" in scalars:
            row = self.curves[-1]
            row["weight"] = scalars.get(WEIGHT, np.nan)
            for name in ("variance_scaling_clamped", "quantile_variance_mean", "vf_coef_effective", "grad_norm"):
                row[name] = scalars.get(f"train/{name}", np.nan)
            row["calibration_error"] = scalars.get("train/quantile_calibration_error", np.nan)

    def _on_rollout_end(self) -> None:
        buffer, core = self.algorithm.rollout_buffer, self.core
        assert core is not None
        bars = self.bars.reshape(-1)
        inputs = inputs_of_rollout(self.algorithm)
        returns = torch.as_tensor(buffer.returns.reshape(-1))
        with torch.no_grad():
            quantiles = predict_quantiles(self.algorithm, inputs).cpu()
        loss = quantile_huber_loss(quantiles / self.std, returns / self.std, FIXED_KAPPA)
        self.curves.append(
            {
                "step": float(self.num_timesteps),
                "value_loss": float(loss.mean()),
                "explained_variance": float(explained_variance(buffer.values.flatten(), buffer.returns.flatten())),
                "reward": float(buffer.rewards.mean()),
                "volatility_index": float(core.index[bars].mean()),
            }
        )
        self.samples = [
            *self.samples[1 - POOLED :],
            {
                **{name: array.copy() for name, array in inputs.items()},
                **self._minibatches(),
                "bar": bars,
                "regime": core.regime[bars],
                "returns": returns.numpy().astype(np.float64),
                "value": quantiles.mean(dim=1).numpy().astype(np.float64),
                "variance": quantiles.var(dim=1, unbiased=False).numpy().astype(np.float64),
                "loss": loss.numpy(),
            },
        ]

    def _minibatches(self) -> dict[str, np.ndarray]:
        """Where the policy is recurrent, the number of each sample's minibatch, among those of all rollouts."""
        if not is_recurrent(self.algorithm):
            return {}
        own = minibatches_of_rollout(self.algorithm)
        return {"minibatch": own + len(own) * len(self.curves)}

    def figures(self) -> Figures:
        """:return: the figures of training, None where undefined"""
        rows = pd.DataFrame(self.curves)
        rows = rows.iloc[int(WARM_UP * len(rows)) :]
        means = {name: _defined(rows[name].mean()) for name in rows if name not in ("step", "volatility_index")}
        pool = {name: np.concatenate([s[name] for s in self.samples]) for name in self.samples[0]}
        result: Figures = {
            **{f"{name}_mean" if name == "weight" else name: value for name, value in means.items()},
            "value_loss_spread": _defined(rows["value_loss"].std() / rows["value_loss"].mean()),
            "weight_std": _defined(rows["weight"].std()) if "weight" in rows else None,
            "value_loss_outliers": float((pool["loss"] > OUTLIER_LOSS).mean()),
        }
        for name, group in _groups(pool["regime"], pool["bar"]).items():
            result[f"value_loss_outliers_{name}"] = float((pool["loss"][group] > OUTLIER_LOSS).mean())
            fit = _fit(pool["value"][group], pool["variance"][group], pool["returns"][group])
            result |= {f"{figure}_{name}": value for figure, value in fit.items()}
        result |= _gradients(self.algorithm, pool)
        return result | _gaps(result, "value_error")


def _defined(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _over(numerator: float, denominator: float) -> float | None:
    return _defined(numerator / denominator) if denominator > 0 else None


def _fit(values: np.ndarray, variances: np.ndarray, returns: np.ndarray) -> Figures:
    """Root mean square error over the returns' std, and the predicted spread over that error, in which 1 is right."""
    error = np.sqrt(np.mean((values - returns) ** 2))
    return {"value_error": _over(error, returns.std()), "spread": _over(np.sqrt(variances.mean()), error)}


def _groups(regime: np.ndarray, bar: np.ndarray) -> dict[str, np.ndarray]:
    """The samples of every group that has ``MIN_REGIME_DAYS`` different bars."""
    groups = {name: np.flatnonzero(np.isin(regime, members)) for name, members in GROUPS.items()}
    return {name: rows for name, rows in groups.items() if len(np.unique(bar[rows])) >= MIN_REGIME_DAYS}


def _gaps(result: Figures, name: str) -> Figures:
    """Relative gap between calm and each of the other ends, 0 (alike) to 1."""
    gaps: Figures = {}
    for other in ("crash", "stormy"):
        one, two = result.get(f"{name}_calm"), result.get(f"{name}_{other}")
        if one is not None and two is not None:
            gaps[f"{name}_gap_{other}"] = _over(abs(one - two), abs(one) + abs(two))
    return gaps


def _gradients(model: DistributionalPPO, pool: dict[str, np.ndarray]) -> Figures:
    """
    How hard the trained critic is pulled by samples of one regime alone: the mean norm of the gradient of the value
    loss over random draws of ``GRADIENT_SAMPLES``, with weights of mixed draws, and its ratio to that of calm samples.
    Minibatches of a recurrent policy are not mixed: each sample has the weight of its own.
    """
    inputs: Inputs = {name: pool[name] for name in ("observations", "hidden", "cell") if name in pool}
    rng = np.random.default_rng(0)
    groups = {**_groups(pool["regime"], pool["bar"]), "mixed": np.arange(len(pool["regime"]))}
    norms: dict[str, list[float]] = {name: [] for name in ("calm", "crash", "stormy") if name in groups}
    model.policy.set_training_mode(False)
    own_weights = weights_by_minibatch(model, inputs, pool["minibatch"]) if "minibatch" in pool else []

    def draw(name: str) -> np.ndarray:
        rows = groups[name]
        return rng.choice(rows, GRADIENT_SAMPLES, replace=len(rows) < GRADIENT_SAMPLES)

    for _ in range(GRADIENT_DRAWS):
        with torch.no_grad():
            mixed = weights_of(model, quantiles_of_loss(model, at_rows(inputs, draw("mixed"))))
        for name, values in norms.items():
            rows = draw(name)
            returns = pool["returns"][rows].astype(np.float32)
            weights = [own[rows] for own in own_weights] or mixed
            values.append(value_gradient_norm(model, at_rows(inputs, rows), returns, weights))
    means = {name: float(np.mean(values)) for name, values in norms.items()}
    result: Figures = {f"grad_norm_{name}": value for name, value in means.items()}
    for name in ("crash", "stormy"):
        if name in means and means.get("calm", 0) > 0:
            result[f"grad_ratio_{name}"] = means[name] / means["calm"]
    return result


TEST_FIGURES = {
    "sharpe_ratio": "sharpe",
    "sortino_ratio": "sortino",
    "max_drawdown": "max_drawdown",
    "turnover_per_year": "turnover",
    "costs_per_year": "costs",
    "exposure": "exposure",
}


def _trading(frames: dict[str, pd.DataFrame], bars_per_year: float, prefix: str) -> Figures:
    """Figures of a backtest, overall and of the days of each regime, one after the other."""
    result: Figures = {}
    for name, members in {"": tuple(range(len(REGIMES))), **GROUPS}.items():
        wanted = [REGIMES[i] for i in members]
        days = joint_in(frames, wanted)
        suffix = f"_{name}" if name else ""
        if name and len(days) < MIN_REGIME_DAYS:
            continue
        of = figures(days, bars_per_year)
        result |= {f"{prefix}_{short}{suffix}": of[long] for long, short in TEST_FIGURES.items()}
        result[f"{prefix}_mean_reward{suffix}"] = float(REWARD_SCALE * np.log1p(days["return"]).mean())
    return result


def _test(study: Study) -> tuple[Figures, pd.DataFrame]:
    """Figures of the test period, and its days."""
    assert study.core is not None
    seen: list[np.ndarray] = []
    segments, bars_per_year = study.segments["test"], study.core.bars_per_year
    agent = backtest(segments, study.trading, study.agent(seen))
    held = backtest(segments, study.trading, buy_and_hold)
    result = _trading(agent, bars_per_year, "test")
    result |= _gaps(result, "test_sharpe") | _gaps(result, "test_mean_reward")
    result |= _trading(held, bars_per_year, "hold")

    quantiles, realised = predicted_and_realised(study.model, agent, seen)
    known = np.isfinite(realised)
    quantiles, realised = quantiles[known].astype(np.float64), realised[known]
    regime = np.concatenate([frame["regime"].to_numpy() for frame in agent.values()])[known]
    tau = (np.arange(quantiles.shape[1]) + 0.5) / quantiles.shape[1]
    below = (realised[:, None] < np.sort(quantiles, axis=1)).mean(axis=0)
    result["test_calibration_error"] = float(np.abs(below - tau).mean())
    result["test_explained_variance"] = _defined(explained_variance(quantiles.mean(axis=1), realised))
    for name, members in GROUPS.items():
        rows = np.isin(regime, [REGIMES[i] for i in members])
        if rows.sum() >= MIN_REGIME_DAYS:
            fit = _fit(quantiles[rows].mean(axis=1), quantiles[rows].var(axis=1), realised[rows])
            result |= {f"test_{figure}_{name}": value for figure, value in fit.items()}
    together = joint(agent)
    days = together[["return", "position", "index"]].assign(hold=joint(held)["return"])
    return result | _gaps(result, "test_value_error"), days


def fixed_std(study: Study) -> float:
    """
    :param study: a run on the market
    :return: standard deviation of the discounted rewards of buy-and-hold over the training period, in raw units: what
        one is in the loss by which all variants are compared
    """
    frames = backtest(study.segments["train"], study.trading, buy_and_hold)
    return float(np.nanstd(discounted(frames, np.zeros(len(frames)), study.model.gamma)))


def run_cell(cell: Cell) -> dict[str, Any]:
    """
    Train and measure.

    :param cell: which
    :return: for JSON: "figures", "curves" and "daily", each by name, "bars_per_year" and "seconds"
    """
    torch.set_num_threads(1)
    start = time.perf_counter()
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # said once, when the cells were made
        warnings.simplefilter("ignore")
        segments = cell.segments or segments_of(cell.market, ("train", "test"))
        study = Study(cell.run, cell.market, {**cell.algorithm, "seed": cell.seed}, segments)
        measurements = Measurements(study.core, fixed_std(study))
        callbacks: list[BaseCallback] = [measurements]
        if cell.adaptive_kl is not None:
            callbacks.append(KLAdaptiveRate(cell.adaptive_kl))
        study.model.learn(cell.run.total_timesteps, callbacks)
        tested, days = _test(study)
        result = {**measurements.figures(), **tested}
    curves = pd.DataFrame(measurements.curves).rename(columns={"quantile_variance_mean": "quantile_variance"})
    return {
        "figures": result,
        "curves": {name: [_defined(value) for value in curves[name]] for name in curves},
        "daily": {
            "date": [str(day) for day in days.index],
            **{name: days[name].round(8).tolist() for name in days},
        },
        "bars_per_year": study.core.bars_per_year if study.core else None,
        "seconds": round(time.perf_counter() - start, 2),
    }
