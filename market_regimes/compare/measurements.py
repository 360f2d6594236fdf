"""What a critic is worth while it is trained, by the common probe, and how hard each regime pulls it."""

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

WARM_UP = 0.2  # share of the updates that the figures of training leave out
EVERY = 2  # updates from one probe to the next: a probe takes an eighth of the time of a small update
POOLED = 5  # probes from which the figures by regime are made, the last ones
GRADIENT_DRAWS = 100
OUTLIER_LOSS = 1.0  # of the fixed loss: all quantiles 2.5 standard deviations from the return
FIXED_KAPPA = 1.0
# Scalars train/NAME of an update that stand in its row.
UPDATE = ("variance_scaling_clamped", "quantile_variance_mean", "vf_coef_effective", "grad_norm")
# The same of all variants by the common probe; a row without a probe lacks them.
PROBED = ("value_loss", "explained_variance", "calibration_error", "reward")
# Columns of the curves that are no figures.
NO_FIGURES = ("step", "volatility_index")
# Columns of the curves whose mean has a name of its own.
MEANS = {"weight": "weight_mean"}
Figures = dict[str, float | None]


class Measurements(RolloutBars):
    """
    A row for each update: what it logged and, for every ``EVERY``-th and the last one, the common probe after it, by a
    loss that is the same for all variants: quantile-Huber of the raw realised returns over a fixed standard deviation.

    :param core: the environment's
    :param probe: the common probe
    :param std: what one is in the loss, in raw units
    """

    def __init__(self, core: Core | None, probe: Probe, std: float):
        super().__init__(core)
        self.probe = probe
        self.std = std
        self.curves: list[dict[str, float]] = []
        self.samples: list[dict[str, np.ndarray]] = []  # of the last probes
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
        """A row of the curves, if an update came before."""
        scalars = self.logger.name_to_value
        if "train/value_loss" not in scalars:
            return

        # What the update logged, beside the rollout that it learned from.
        row = {
            "step": float(self.num_timesteps),
            "volatility_index": self._index,
        }
        row["weight"] = scalars.get(WEIGHT, np.nan)
        for name in UPDATE:
            row[name] = scalars.get(f"train/{name}", np.nan)

        # The probe, or its columns without values.
        is_probed = last or (len(self.curves) + 1) % EVERY == 0
        if is_probed:
            row |= self._probed()
        else:
            row |= dict.fromkeys(PROBED, np.nan)
        self.curves.append(row)

    def _probed(self) -> dict[str, float]:
        """Figures of the probe, by name; its samples are kept."""
        # Play the same episodes as every other variant does.
        probed = self.probe.play(self.algorithm)
        values = probed.quantiles.mean(axis=1)

        # In the fixed loss one is the fixed standard deviation.
        quantiles = torch.as_tensor(probed.quantiles / self.std)
        returns = torch.as_tensor(probed.returns / self.std)
        loss = quantile_huber_loss(quantiles, returns, FIXED_KAPPA).numpy()

        # Keep what the figures by regime need, of the last probes only.
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
        """:return: the figures of training, None where undefined"""
        # The updates after the warm-up.
        rows = pd.DataFrame(self.curves)
        first = int(WARM_UP * len(rows))
        rows = rows.iloc[first:]

        # Means and spreads over the updates.
        result: Figures = {}
        for name in rows:
            if name not in NO_FIGURES:
                result[MEANS.get(name, name)] = defined(rows[name].mean())

        losses = rows["value_loss"]
        result["value_loss_spread"] = defined(losses.std() / losses.mean())
        result["weight_std"] = defined(rows["weight"].std())

        # The samples of the last probes, together and by regime.
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

        # How hard each regime pulls, and how far the regimes are apart.
        result |= gradients(self.algorithm, pool, names)
        return result | gaps_of(result, "value_error")


def _outliers(loss: np.ndarray) -> float:
    """Share of the samples whose loss is an outlier's."""
    return float((loss > OUTLIER_LOSS).mean())


def defined(value: Any) -> float | None:
    """The number, None where there is none."""
    return float(value) if np.isfinite(value) else None


def over(numerator: float, denominator: float) -> float | None:
    """The ratio, None where it is undefined."""
    return defined(numerator / denominator) if denominator > 0 else None


def calibration_error(quantiles: np.ndarray, returns: np.ndarray) -> float:
    """
    :param quantiles: predicted, shape (M, N), in any order
    :param returns: realised, shape (M,)
    :return: mean over the quantiles of the gap between tau and the share of the returns below
    """
    n_quantiles = quantiles.shape[1]
    tau = (np.arange(n_quantiles) + 0.5) / n_quantiles

    # The share of the returns below each quantile, from the smallest on.
    ordered = np.sort(quantiles, axis=1)
    below = (returns[:, None] < ordered).mean(axis=0)
    return float(np.abs(below - tau).mean())


def fit_of(values: np.ndarray, variances: np.ndarray, returns: np.ndarray) -> Figures:
    """
    Each state has one realised return, so the true spread is estimated from all of them together: the standard
    deviation of return minus value, in which errors of the values count as spread, but for their mean.

    :param values: predicted means, shape (M,)
    :param variances: predicted, shape (M,)
    :param returns: realised, shape (M,)
    :return: ``value_error``: root mean square of value minus return over the returns' std; ``spread``: root of the mean
        predicted variance over the true spread, in which 1 is right
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
    :param regime: position in ``names`` of each sample, shape (M,)
    :param bar: bar of each sample, shape (M,)
    :param names: of the regimes
    :return: rows of the samples of every group that has ``MIN_REGIME_DAYS`` different bars
    """
    groups = {}
    for name, members in groups_of(names).items():
        rows = np.flatnonzero(np.isin(regime, members))

        # A bar that several episodes pass counts once.
        bars = np.unique(bar[rows])
        if len(bars) >= MIN_REGIME_DAYS:
            groups[name] = rows
    return groups


def gaps_of(result: Figures, name: str) -> Figures:
    """Relative gap between calm and each of the other ends, 0 (alike) to 1."""
    gaps: Figures = {}
    calm = result.get(f"{name}_calm")

    # A gap needs both ends.
    for group in ("crash", "stormy"):
        rough = result.get(f"{name}_{group}")
        if calm is not None and rough is not None:
            distance = abs(calm - rough)
            gaps[f"{name}_gap_{group}"] = over(distance, abs(calm) + abs(rough))
    return gaps


def gradients(model: DistributionalPPO, pool: dict[str, np.ndarray], names: Sequence[str]) -> Figures:
    """
    How hard the trained critic is pulled by samples of one regime alone: the mean norm of the gradient of the value
    loss over random draws of ``GRADIENT_SAMPLES``, with weights of mixed draws, and its ratio to that of calm samples.
    None of a recurrent policy, whose minibatches are not mixed and whose samples are nothing without their past.
    """
    if is_recurrent(model):
        return {}

    # Whose samples are drawn, and the norms of the draws.
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
        # Weights of a mixed draw, as training has them.
        mixed = {"observations": pool["observations"][draw("mixed")]}
        with torch.no_grad():
            weights = weights_of(model, quantiles_of_loss(model, mixed))

        # The pull of each group under these weights.
        for name, values in norms.items():
            rows = draw(name)
            returns = pool["returns"][rows].astype(np.float32)
            inputs = {"observations": pool["observations"][rows]}
            norm = value_gradient_norm(model, inputs, returns, weights)
            values.append(norm)

    # Means over the draws, and their ratios to that of calm samples.
    means = {name: float(np.mean(values)) for name, values in norms.items()}
    result: Figures = {f"grad_norm_{name}": value for name, value in means.items()}

    for name in ("crash", "stormy"):
        if name in means and means.get("calm", 0) > 0:
            result[f"grad_ratio_{name}"] = means[name] / means["calm"]
    return result
