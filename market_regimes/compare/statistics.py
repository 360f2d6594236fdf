"""Paired effects, intervals and Sharpe ratios: is a variant better than the baseline, and how certain is that?"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np
from arch.bootstrap import IIDBootstrap
from scipy import stats
from statsmodels.stats.power import TTestPower

from market_regimes.config import MAX_SEEDS
from market_regimes.evaluate import robustness
from market_regimes.evaluate.figures import sharpe_ratio

RESAMPLES = 2000
TRIM = 0.25  # share that the interquartile mean drops at either end (Agarwal et al. 2021)
POWER = 0.8
SIGNIFICANCE = 0.05
MIN_SEEDS = 5  # with fewer no bootstrap reaches its nominal coverage
MAX_SEEDS_NEEDED = MAX_SEEDS  # represents all larger numbers, which are impractical
MIN_DAYS = robustness.MIN_BARS
NO_SCALE = 1e-12  # sizes that are 0 up to rounding


@dataclass(frozen=True)
class Effect:
    """
    Variant minus baseline of one metric, over paired cells. None: undefined.

    :param pairs: number of cells with both defined
    :param baseline: interquartile mean of the baseline's cells
    :param variant: interquartile mean of the variant's cells
    :param difference: interquartile mean of the paired differences
    :param low: lower end of its 95 % interval
    :param high: upper end of the interval
    :param relative: difference over the size of ``baseline``
    :param relative_low: ``low`` over the same size
    :param relative_high: ``high`` over the same size
    :param improvement: probability that a cell of the variant is better than one of the baseline in the same fold
    :param seeds_needed: seeds with which a t test would show a difference of this size, with a power of 0.8. None with
        fewer than ``MIN_SEEDS`` seeds, whose spread is uninformative
    """

    pairs: int
    baseline: float | None = None
    variant: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    relative: float | None = None
    relative_low: float | None = None
    relative_high: float | None = None
    improvement: float | None = None
    seeds_needed: int | None = None


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """
    :param values: shape (..., M); non-finite values are ignored
    :return: mean of the middle half of each row, as ``scipy.stats.trim_mean``, shape (...); NaN without values
    """
    ordered = np.sort(np.where(np.isfinite(values), values, np.nan), axis=-1)  # NaN are last
    count = np.isfinite(ordered).sum(axis=-1, keepdims=True)

    # Drop the same number of values at either end.
    cut = (TRIM * count).astype(int)
    place = np.arange(values.shape[-1])
    is_middle = (place >= cut) & (place < count - cut)

    # Average the rest, NaN where nothing remains.
    total = np.where(is_middle, ordered, 0.0).sum(axis=-1)
    number = (count - 2 * cut)[..., 0]
    means: np.ndarray = np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)
    return means


def effect(variant: np.ndarray, baseline: np.ndarray, higher_is_better: bool, seed: int = 0) -> Effect:
    """
    Compute a paired effect with its bootstrap interval.

    The bootstrap resamples seeds, each with all its folds: folds are fixed, seeds are random. Its percentiles are
    expanded for few seeds (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", 4.2).

    :param variant: shape (n_seeds, n_folds), NaN where undefined
    :param baseline: values of the same seeds and folds, same shape
    :param higher_is_better: direction of the metric
    :param seed: seed of the bootstrap
    :return: the effect
    """
    # Select cells with both defined.
    is_paired = np.isfinite(variant) & np.isfinite(baseline)
    pairs = int(is_paired.sum())
    if not pairs:
        return Effect(0)
    variant = np.where(is_paired, variant, np.nan)
    baseline = np.where(is_paired, baseline, np.nan)
    differences = variant - baseline

    # Compute the difference and its interval, in the unit of the metric and relative to the baseline.
    of_baseline = float(interquartile_mean(baseline.reshape(-1)))
    difference = float(interquartile_mean(differences.reshape(-1)))
    low, high = interval(differences, seed) or (None, None)
    scale = abs(of_baseline)

    return Effect(
        pairs=pairs,
        baseline=of_baseline,
        variant=float(interquartile_mean(variant.reshape(-1))),
        difference=difference,
        low=low,
        high=high,
        relative=_relative(difference, scale),
        relative_low=_relative(low, scale),
        relative_high=_relative(high, scale),
        improvement=_improvement(variant, baseline, higher_is_better),
        seeds_needed=_seeds_needed(differences),
    )


def _relative(number: float | None, scale: float) -> float | None:
    """Divide by the scale, None if that is 0."""
    if number is None or scale <= NO_SCALE:
        return None
    return number / scale


def interval(differences: np.ndarray, seed: int) -> tuple[float, float] | None:
    """
    :param differences: shape (n_seeds, n_folds), NaN where undefined
    :param seed: seed of the bootstrap
    :return: 95 % interval of the interquartile mean, as in ``effect``; None with fewer than ``MIN_SEEDS`` seeds
    """
    used = differences[np.isfinite(differences).any(axis=1)]
    if len(used) < MIN_SEEDS:
        return None

    # Resample seeds, each with all its folds.
    drawn = used[_resampled(len(used), seed)]
    means = interquartile_mean(drawn.reshape(RESAMPLES, -1))

    # Expand the percentiles for few seeds.
    expanded = stats.t.ppf(1 - SIGNIFICANCE / 2, len(used) - 1) * math.sqrt(len(used) / (len(used) - 1))
    low, high = np.nanquantile(means, stats.norm.cdf([-expanded, expanded]))
    return float(low), float(high)


@functools.cache  # the same for every effect of a comparison
def _resampled(seeds: int, seed: int) -> np.ndarray:
    """Rows drawn with replacement, shape (RESAMPLES, seeds)."""
    bootstrap = IIDBootstrap(np.arange(seeds), seed=np.random.default_rng(seed))
    return np.stack([drawn[0] for drawn, _ in bootstrap.bootstrap(RESAMPLES)])


def _improvement(variant: np.ndarray, baseline: np.ndarray, higher_is_better: bool) -> float | None:
    """Compute the statistic of Mann and Whitney over its maximum, averaged over the folds."""
    shares = []
    for of_variant, of_baseline in zip(variant.T, baseline.T, strict=True):
        of_variant = of_variant[np.isfinite(of_variant)]
        of_baseline = of_baseline[np.isfinite(of_baseline)]
        if len(of_variant) and len(of_baseline):
            sign = np.sign(of_variant[:, None] - of_baseline[None, :])
            shares.append(float((0.5 + 0.5 * sign).mean()))
    if not shares:
        return None

    share = float(np.mean(shares))
    return share if higher_is_better else 1 - share


def _seeds_needed(differences: np.ndarray) -> int | None:
    """Solve the t test of the mean over the folds, which the seeds repeat."""
    used = differences[np.isfinite(differences).any(axis=1)]
    per_seed = np.nanmean(used, axis=1)
    if len(per_seed) < MIN_SEEDS:
        return None
    spread = per_seed.std(ddof=1)
    if not spread > 0 or per_seed.mean() == 0:
        return None

    size = abs(float(per_seed.mean() / spread))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns and gives NaN if it does not converge
        needed = float(np.ravel(TTestPower().solve_power(effect_size=size, alpha=SIGNIFICANCE, power=POWER))[0])

    # Use the normal approximation if the t test has no solution.
    if not np.isfinite(needed):
        needed = float((stats.norm.ppf(1 - SIGNIFICANCE / 2) + stats.norm.ppf(POWER)) / size) ** 2
    return max(2, min(math.ceil(needed), MAX_SEEDS_NEEDED))


def seeds_needed_text(needed: float | None, answer: str) -> str:
    """
    :param needed: number in an ``Effect``, or NaN
    :param answer: result of ``verdict``
    :return: the number as text, or the reason why it is undefined
    """
    if needed is not None and math.isfinite(needed):
        if needed >= MAX_SEEDS_NEEDED:
            return f"over {MAX_SEEDS_NEEDED:,}"
        return f"{needed:,.0f}"
    if answer == "n/a":
        return f"cannot be told, since fewer than {MIN_SEEDS} seeds have a value"
    return "n/a"


def verdict(measured: Effect, higher_is_better: bool) -> str:
    """
    :param measured: the effect
    :param higher_is_better: direction of the metric
    :return: "better", "worse", "no difference shown" if the interval contains 0, "n/a" without an interval
    """
    if measured.low is None or measured.high is None:
        return "n/a"
    if measured.low <= 0 <= measured.high:
        return "no difference shown"
    rises = measured.low > 0
    return "better" if rises == higher_is_better else "worse"


def against_hope(measured: Effect, hoped: tuple[float, float]) -> str:
    """
    :param measured: the effect
    :param hoped: hypothesis: range of the relative change, whose modest end is nearer 0
    :return: "reached" if the whole interval is beyond the modest end, "not reached" if it falls short of it, "cannot
        tell" otherwise, "n/a" without an interval
    """
    if measured.relative_low is None or measured.relative_high is None:
        return "n/a"

    # Measure the ends of the interval from the modest end, in the direction of the hypothesis.
    modest, bold = sorted(hoped, key=abs)
    sign = 1.0 if bold > modest else -1.0
    near, far = sorted(sign * (end - modest) for end in (measured.relative_low, measured.relative_high))

    if near > 0:
        return "reached"
    if far < 0:
        return "not reached"
    return "cannot tell"


def sharpe_difference(
    variant: np.ndarray, baseline: np.ndarray, bars_per_year: float, seed: int = 0
) -> tuple[float, float, float] | None:
    """
    Compare Sharpe ratios by the stationary block bootstrap of evaluations (``market_regimes.evaluate.robustness``).

    :param variant: simple returns, shape (T,)
    :param baseline: simple returns of the same days
    :param bars_per_year: annualisation factor
    :param seed: seed of the bootstrap
    :return: difference of the Sharpe ratios, lower and upper end of its 95 % interval; None if one is undefined
    """
    difference = robustness.sharpe_difference(variant, baseline, bars_per_year, seed)
    if difference is None:
        return None
    return difference.value, difference.low, difference.high


def expected_maximum_sharpe(variance: float, trials: int) -> float:
    """
    Compute the expected best Sharpe ratio of many trials without skill (Bailey & Lopez de Prado 2014, eq. 1).

    :param variance: variance of the trials' Sharpe ratios
    :param trials: number of trials, at least 2
    :return: Sharpe ratio, per bar as the trials' ratios
    """
    lower = stats.norm.ppf(1 - 1 / trials)
    upper = stats.norm.ppf(1 - 1 / (trials * math.e))
    return float(math.sqrt(variance) * ((1 - np.euler_gamma) * lower + np.euler_gamma * upper))


def deflated_sharpe_of_moments(
    sharpe: float, bars: int, skewness: float, kurtosis: float, benchmark: float
) -> float | None:
    """
    :param sharpe: Sharpe ratio per bar
    :param bars: number of returns
    :param skewness: skewness of the returns
    :param kurtosis: kurtosis of the returns, 3 for a normal distribution
    :param benchmark: Sharpe ratio per bar to exceed
    :return: probability that the true Sharpe ratio exceeds it (eq. 2), None if the moments allow none
    """
    spread = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if not spread > 0:
        return None
    return float(stats.norm.cdf((sharpe - benchmark) * math.sqrt(bars - 1) / math.sqrt(spread)))


def deflated_sharpe(returns: np.ndarray, trial_sharpes: np.ndarray) -> float | None:
    """
    Compute the probability that the true Sharpe ratio exceeds the lucky best of the trials.

    :param returns: simple returns, shape (T,)
    :param trial_sharpes: Sharpe ratios per bar of all trials; non-finite values are ignored
    :return: the probability, None with fewer than two trials or without spread in the returns
    """
    trials = trial_sharpes[np.isfinite(trial_sharpes)]
    sharpe = float(sharpe_ratio(returns, 1.0))
    if len(trials) < 2 or len(returns) < MIN_DAYS or not math.isfinite(sharpe):
        return None

    benchmark = expected_maximum_sharpe(float(trials.var(ddof=1)), len(trials))
    skewness = float(stats.skew(returns))
    kurtosis = float(stats.kurtosis(returns, fisher=False))
    return deflated_sharpe_of_moments(sharpe, len(returns), skewness, kurtosis, benchmark)
