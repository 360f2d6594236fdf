"""Measurements of a critic during training by the common probe, and each regime's share of its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.utils import explained_variance

from distributional_ppo import DistributionalPPO, quantile_huber_loss
from market_regimes.compare.probe import Probe
from market_regimes.market.environment import Core
from market_regimes.market.regimes import MIN_REGIME_DAYS, groups_of
from market_regimes.run.callback import RolloutBars
from market_regimes.run.inputs import is_recurrent, quantiles_of_loss
from market_regimes.run.log import WEIGHT
from market_regimes.run.probes import GRADIENT_SAMPLES, value_gradient_norm, weights_of

WARM_UP = 0.2  # share of the first updates that figures of training exclude
EVERY = 2  # updates between probes: a probe takes an eighth of the time of a small update
POOLED = 5  # number of last probes for the figures by regime
GRADIENT_DRAWS = 100
OUTLIER_LOSS = 1.0  # value of the fixed loss: all quantiles 2.5 standard deviations from the return
FIXED_KAPPA = 1.0
# Scalars train/NAME of an update in its row.
UPDATE = ("variance_scaling_clamped", "quantile_variance_mean", "vf_coef_effective", "grad_norm")
# Figures of the common probe. Rows without a probe lack them.
PROBED = ("value_loss", "explained_variance", "calibration_error", "reward")
# Columns of the curves that are not figures.
NO_FIGURES = ("step", "volatility_index")
# Columns of the curves whose mean has another name.
MEANS = {"weight": "weight_mean"}
Figures = dict[str, float | None]


class Measurements(RolloutBars):
    """
    Rows of curves, one per update, with the update's scalars and the common probe.

    The probe runs after every ``EVERY``-th update and the last one. Its loss is the same for all variants:
    quantile-Huber of the raw realised returns over a fixed standard deviation.

    :param core: core of the environment
    :param probe: the common probe
    :param std: unit of the loss, in raw units
    """

    def __init__(self, core: Core | None, probe: Probe, std: float):
        super().__init__(core)
        self.probe = probe
        self.std = std
        self.curves: list[dict[str, float]] = []
        self.samples: list[dict[str, np.ndarray]] = []  # samples of the last probes
        self._index = np.nan  # mean volatility index of the last rollout

    def _on_rollout_start(self) -> None:
        self._measure(last=False)
        super()._on_rollout_start()

    def _on_training_end(self) -> None:
        self._measure(last=True)

    def _on_rollout_end(self) -> None:
        assert self.core is not None
        self._index = float(self.core.index[self.bars].mean())

    def _measure(self, last: bool) -> None:
        """Add a row to the curves if an update came before."""
        scalars = self.logger.name_to_value
        if "train/value_loss" not in scalars:
            return

        # Record the update's scalars and the rollout it learned from.
        row = {
            "step": float(self.num_timesteps),
            "volatility_index": self._index,
        }
        row["weight"] = scalars.get(WEIGHT, np.nan)
        for name in UPDATE:
            row[name] = scalars.get(f"train/{name}", np.nan)

        # Add the probe, or its columns without values.
        is_probed = last or (len(self.curves) + 1) % EVERY == 0
        if is_probed:
            row |= self._probed()
        else:
            row |= dict.fromkeys(PROBED, np.nan)
        self.curves.append(row)

    def _probed(self) -> dict[str, float]:
        """Run the probe, store its samples and return its figures by name."""
        # Play the same episodes as for every variant.
        probed = self.probe.play(self.algorithm)
        values = probed.quantiles.mean(axis=1)

        # The fixed standard deviation is the unit of the fixed loss.
        quantiles = torch.as_tensor(probed.quantiles / self.std)
        returns = torch.as_tensor(probed.returns / self.std)
        loss = quantile_huber_loss(quantiles, returns, FIXED_KAPPA).numpy()

        # Store the input of the figures by regime, for the last probes only.
        sample = {
            "observations": probed.observations,
            "bar": probed.bar,
            "regime": self.probe.core.regime[probed.bar],
            "returns": probed.returns,
            "value": values,
            "variance": probed.quantiles.var(axis=1),
            "loss": loss,
        }
        earlier = self.samples[1 - POOLED :]
        self.samples = [*earlier, sample]

        return {
            "value_loss": float(loss.mean()),
            "explained_variance": float(explained_variance(values, probed.returns)),
            "calibration_error": calibration_error(probed.quantiles, probed.returns),
            "reward": probed.reward,
        }

    def figures(self) -> Figures:
        """:return: figures of training, None where undefined"""
        # Select the updates after the warm-up.
        rows = pd.DataFrame(self.curves)
        first = int(WARM_UP * len(rows))
        rows = rows.iloc[first:]

        # Compute means and spreads over the updates.
        result: Figures = {}
        for name in rows:
            if name not in NO_FIGURES:
                result[MEANS.get(name, name)] = defined(rows[name].mean())

        losses = rows["value_loss"]
        result["value_loss_spread"] = defined(losses.std() / losses.mean())
        result["weight_std"] = defined(rows["weight"].std())

        # Pool the samples of the last probes, overall and by regime.
        pool = {}
        for name in self.samples[0]:
            pool[name] = np.concatenate([sample[name] for sample in self.samples])

        result["value_loss_outliers"] = _outliers(pool["loss"])
        names = self.probe.core.markets[0].regimes.names
        for name, group in samples_of_groups(pool["regime"], pool["bar"], names).items():
            result[f"value_loss_outliers_{name}"] = _outliers(pool["loss"][group])
            fit = fit_of(
                pool["value"][group],
                pool["variance"][group],
                pool["returns"][group],
            )
            for figure, value in fit.items():
                result[f"{figure}_{name}"] = value

        # Compare the regimes' gradients and figures.
        result |= gradients(self.algorithm, pool, names)
        return result | gaps_of(result, "value_error")


def _outliers(loss: np.ndarray) -> float:
    """Return the share of samples with an outlier's loss."""
    return float((loss > OUTLIER_LOSS).mean())


def defined(value: Any) -> float | None:
    """Return the number, None if it is undefined."""
    return float(value) if np.isfinite(value) else None


def over(numerator: float, denominator: float) -> float | None:
    """Return the ratio, None if it is undefined."""
    return defined(numerator / denominator) if denominator > 0 else None


def calibration_error(quantiles: np.ndarray, returns: np.ndarray) -> float:
    """
    :param quantiles: predicted quantiles, shape (M, N), in any order
    :param returns: realised returns, shape (M,)
    :return: mean over the quantiles of the distance between tau and the share of returns below
    """
    n_quantiles = quantiles.shape[1]
    tau = (np.arange(n_quantiles) + 0.5) / n_quantiles

    # Compute the share of returns below each quantile, in ascending order.
    ordered = np.sort(quantiles, axis=1)
    below = (returns[:, None] < ordered).mean(axis=0)
    return float(np.abs(below - tau).mean())


def fit_of(values: np.ndarray, variances: np.ndarray, returns: np.ndarray) -> Figures:
    """
    Compare predicted means and spreads with realised returns.

    Each state has one realised return. So the true spread is estimated from all together, as the standard deviation of
    return minus value. Errors of the values count as spread, except their mean.

    :param values: predicted means, shape (M,)
    :param variances: predicted variances, shape (M,)
    :param returns: realised returns, shape (M,)
    :return: ``value_error``: root mean square of value minus return over the returns' std; ``spread``: root of the mean
        predicted variance over the true spread, ideally 1
    """
    errors = returns - values
    root_of_errors = float(np.sqrt(np.mean(errors**2)))
    predicted_spread = float(np.sqrt(variances.mean()))

    return {
        "value_error": over(root_of_errors, returns.std()),
        "spread": over(predicted_spread, errors.std()),
    }


def samples_of_groups(regime: np.ndarray, bar: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """
    :param regime: each sample's position in ``names``, shape (M,)
    :param bar: bar of each sample, shape (M,)
    :param names: names of the regimes
    :return: rows of the samples in each group with at least ``MIN_REGIME_DAYS`` different bars
    """
    groups = {}
    for name, members in groups_of(names).items():
        rows = np.flatnonzero(np.isin(regime, members))

        # Count a bar of several episodes once.
        bars = np.unique(bar[rows])
        if len(bars) >= MIN_REGIME_DAYS:
            groups[name] = rows
    return groups


def gaps_of(result: Figures, name: str) -> Figures:
    """Return relative differences between calm and each other end, from 0 (alike) to 1."""
    gaps: Figures = {}
    calm = result.get(f"{name}_calm")

    # A difference needs both ends.
    for group in ("crash", "stormy"):
        rough = result.get(f"{name}_{group}")
        if calm is not None and rough is not None:
            distance = abs(calm - rough)
            gaps[f"{name}_gap_{group}"] = over(distance, abs(calm) + abs(rough))
    return gaps


def gradients(model: DistributionalPPO, pool: dict[str, np.ndarray], names: Sequence[str]) -> Figures:
    """
    Measure the gradient of the trained critic's value loss on samples of each regime.

    The figures are the mean norm over random draws of ``GRADIENT_SAMPLES`` samples, and its ratio to the norm on calm
    samples. The weights come from mixed draws. A recurrent policy has no such figures: its minibatches are not mixed,
    and its samples need their past.
    """
    if is_recurrent(model):
        return {}

    # Prepare the groups and their norms.
    model.policy.set_training_mode(False)
    rng = np.random.default_rng(0)
    groups = samples_of_groups(pool["regime"], pool["bar"], names)
    groups["mixed"] = np.arange(len(pool["regime"]))

    norms: dict[str, list[float]] = {}
    for name in ("calm", "crash", "stormy"):
        if name in groups:
            norms[name] = []

    def draw(name: str) -> np.ndarray:
        rows = groups[name]
        too_few = len(rows) < GRADIENT_SAMPLES
        return rng.choice(rows, GRADIENT_SAMPLES, replace=too_few)

    for _ in range(GRADIENT_DRAWS):
        # Take the weights of a mixed draw, as in training.
        mixed = {"observations": pool["observations"][draw("mixed")]}
        with torch.no_grad():
            weights = weights_of(model, quantiles_of_loss(model, mixed))

        # Compute each group's gradient under these weights.
        for name, values in norms.items():
            rows = draw(name)
            returns = pool["returns"][rows].astype(np.float32)
            inputs = {"observations": pool["observations"][rows]}
            norm = value_gradient_norm(model, inputs, returns, weights)
            values.append(norm)

    # Average over the draws, and divide by the calm mean.
    means = {name: float(np.mean(values)) for name, values in norms.items()}
    result: Figures = {f"grad_norm_{name}": value for name, value in means.items()}

    for name in ("crash", "stormy"):
        if name in means and means.get("calm", 0) > 0:
            result[f"grad_ratio_{name}"] = means[name] / means["calm"]
    return result
