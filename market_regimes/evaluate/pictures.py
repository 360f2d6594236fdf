"""Pictures of a run and of its evaluation, and quantstats' tear sheet."""

from __future__ import annotations

import html
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from market_regimes.evaluate.figures import quantstats
from market_regimes.evaluate.strategies import AGENT, HOLD
from market_regimes.files import write_file
from market_regimes.market.regimes import MIN_REGIME_DAYS, REGIMES

A_BILLIONTH_OF_A_PERCENT = 1e-11
LINE_WIDTH = 1.2  # in points
HIDDEN = 0.005  # share of a panel's height within which a line hides another
DASH = 6.0  # length of a dash, in line widths


def _panels(height: float, **ratios: list[float]) -> tuple[Any, list[Any]]:
    """
    A figure without a window or global state.

    :param height: in inches
    :param ratios: ``height_ratios`` of panels over one shared axis, or ``width_ratios`` of panels side by side
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasAgg(figure)
    rows = len(ratios.get("height_ratios", [1]))
    columns = len(ratios.get("width_ratios", [1]))
    axes: list[Any] = list(figure.subplots(rows, columns, sharex=rows > 1, gridspec_kw=dict(ratios)))
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure, axes


def picture_of_equity(frames: dict[str, pd.DataFrame], path: Path, title: str) -> None:
    """
    Equity on a logarithmic axis, drawdown, the agent's exposure and the volatility index over time. Buy-and-hold stands
    there a second time, at the agent's volatility.

    :param frames: ``Account.joint`` by name, the agent's first
    :param path: PNG to write
    :param title: heading
    """
    figure, (equity, drawdown, exposure, index) = _panels(8, height_ratios=[3, 1.5, 1, 1])
    agent = next(iter(frames.values()))
    curves = [frame["equity"] for frame in frames.values()]
    falls = [100 * (curve / curve.cummax().clip(lower=1.0) - 1) for curve in curves]

    # Buy-and-hold at the agent's volatility is one more curve.
    hold = frames.get(HOLD.label)
    scaled = None
    if hold is not None:
        scaled = at_volatility(hold["return"], agent["return"])
        curves.append(scaled)
    of_equity = line_styles([np.log(curve) for curve in curves])
    of_falls = line_styles(falls)

    # Equity and drawdown of every strategy; the agent lies on top.
    equity.plot(agent.index, agent["gross_equity"], label="agent, before costs", color="C0", linewidth=0.8, alpha=0.6)
    for i, (name, frame) in enumerate(frames.items()):
        style = dict(color=f"C{i}", linewidth=LINE_WIDTH, zorder=3 if frame is agent else 2)
        equity.plot(frame.index, frame["equity"], label=name, linestyle=of_equity[i], **style)
        drawdown.plot(frame.index, falls[i], linestyle=of_falls[i], **style)
        if name == HOLD.label and scaled is not None:
            style = dict(color=f"C{i}", linewidth=LINE_WIDTH, linestyle=of_equity[-1])
            if of_equity[-1] == "-":  # no other curve runs along it
                style |= dict(linewidth=0.8, linestyle="--")
            equity.plot(frame.index, scaled, label=f"{name} at the agent's volatility", **style)

    # What the agent held, and the market's volatility.
    exposure.plot(agent.index, 100 * agent["position"].rolling(20, min_periods=1).mean(), color="C0", linewidth=0.8)
    index.plot(agent.index, agent["index"], color="0.4", linewidth=0.8)

    # Axes.
    equity.set(title=title, ylabel="equity, start = 1", yscale="log")
    ticks = equity_ticks(*equity.get_ylim())
    equity.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    equity.set_yticks([], minor=True)
    equity.legend(frameon=False)
    drawdown.set(ylabel="drawdown, %")
    exposure.set(ylabel="agent's position,\n% (20 bars)")
    index.set(ylabel="volatility\nindex")
    figure.savefig(path, dpi=110)


def line_styles(curves: Sequence[pd.Series]) -> list[Any]:
    """
    Curves that coincide share one line, dash by dash, so that none hides another.

    :param curves: heights on a linear axis, on the same dates or some of them
    :return: matplotlib's style of each: a solid line, or dashes that leave room for the curves that coincide with it
    """
    heights = np.concatenate([curve.to_numpy(dtype=np.float64) for curve in curves])
    tolerance = HIDDEN * float(np.nanmax(heights) - np.nanmin(heights))

    # Each curve joins the first group that it runs along for most of its bars.
    groups: list[list[int]] = []
    for i, curve in enumerate(curves):
        for group in groups:
            apart = (curve - curves[group[0]]).abs().dropna()
            if len(apart) and (apart <= tolerance).mean() > 0.5:
                group.append(i)
                break
        else:
            groups.append([i])

    # The curves of a group take turns.
    styles: list[Any] = ["-"] * len(curves)
    for group in (group for group in groups if len(group) > 1):
        for place, i in enumerate(group):
            styles[i] = (place * DASH, (DASH, (len(group) - 1) * DASH))
    return styles


def at_volatility(returns: pd.Series, like: pd.Series) -> pd.Series:
    """
    :param returns: simple, per bar
    :param like: simple returns of the same bars, whose standard deviation is to be had
    :return: equity of the first, 1 at the start, with the position that makes it vary as the second does
    """
    spread = float(returns.std())
    share = float(like.std()) / spread if spread > 0 else 0.0
    return (1 + share * returns).clip(lower=1e-9).cumprod()


def equity_ticks(low: float, high: float) -> list[float]:
    """
    :param low: end of a logarithmic axis
    :param high: its other end
    :return: plain numbers on it, 1 among them where it lies there, none too near another to be read
    """
    from matplotlib.ticker import MaxNLocator

    least = 0.05 * np.log(high / low)
    ticks: list[float] = [1.0] if low <= 1 <= high else []
    for tick in map(float, MaxNLocator(8).tick_values(low, high)):
        if low <= tick <= high and all(abs(np.log(tick / other)) >= least for other in ticks):
            ticks.append(tick)
    return sorted(ticks)


def picture_of_returns(frames: dict[str, pd.DataFrame], quantiles: np.ndarray, outcomes: np.ndarray, title: str) -> Any:
    """
    The predicted distribution of the return beside what came: over time for the first symbol, and as the share of
    outcomes below each predicted quantile, by regime, which on the diagonal is as predicted.

    :param frames: the agent's ``backtest``; M rows in all
    :param quantiles: predictions, shape (M, N)
    :param outcomes: discounted rewards, shape (M,), NaN where there are none
    :param title: heading
    :return: figure
    """
    figure, (fan, share) = _panels(4, width_ratios=[2, 1])
    symbol = next(iter(frames))
    first = frames[symbol]
    several = len(frames) > 1

    # The distribution over time, of the first symbol.
    of_first = quantiles[: len(first)]
    low, lower, middle, upper, high = np.quantile(of_first, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
    fan.fill_between(first.index, low, high, alpha=0.2, color="C0", linewidth=0, label="predicted, 5 to 95 %")
    fan.fill_between(first.index, lower, upper, alpha=0.4, color="C0", linewidth=0, label="25 to 75 %")
    fan.plot(first.index, middle, color="C0", linewidth=0.8)
    fan.plot(first.index, outcomes[: len(first)], color="C1", linewidth=0.8, label="came")
    shown = f"{symbol}, one of {len(frames)} symbols" if several else symbol
    fan.set(title=f"{shown}: {title}", ylabel="discounted log growth, %")
    fan.tick_params(axis="x", rotation=30)

    # The share of outcomes below each quantile, by regime.
    defined = np.isfinite(outcomes)
    tau = (np.arange(quantiles.shape[1]) + 0.5) / quantiles.shape[1]
    below = outcomes[defined, None] < np.sort(quantiles[defined], axis=1)
    regime = np.concatenate([frame["regime"].to_numpy() for frame in frames.values()])[defined]
    share.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    share.plot(tau, below.mean(axis=0), color="black", label="all")
    for name in REGIMES:
        inside = regime == name
        if inside.sum() >= MIN_REGIME_DAYS:
            share.plot(tau, below[inside].mean(axis=0), label=name, linewidth=1.0)
    calibrated = "all symbols" if several else symbol
    share.set(title=f"calibration, {calibrated}", xlabel="quantile predicted", ylabel="share of outcomes below")

    for axis in (fan, share):
        axis.legend(frameon=False)
    return figure


def picture_of_training(progress: Path, path: Path, title: str) -> None:
    """
    Weight, value loss and explained variance over the updates.

    :param progress: CSV of the run's scalars
    :param path: PNG to write
    :param title: heading
    """
    scalars = pd.read_csv(progress)
    if "train/value_loss" not in scalars:  # nothing was trained, or someone removed the file
        return
    scalars = scalars.dropna(subset=["train/value_loss"]).set_index("time/total_timesteps").filter(like="train/")

    # The weight and its band.
    figure, (weight, loss, explained) = _panels(6, height_ratios=[2, 1.5, 1.5])
    if "train/variance_scaling_weight" in scalars:
        low = scalars["train/variance_scaling_weight_min"]
        high = scalars["train/variance_scaling_weight_max"]
        weight.fill_between(scalars.index, low, high, alpha=0.25, label="over the minibatches of an update")
        weight.plot(scalars["train/variance_scaling_weight"], label="mean")
        weight.legend(frameon=False)
    weight.set(title=title, ylabel="variance scaling\nweight")

    # The value loss, and what of the returns the critic explains.
    loss.plot(scalars["train/value_loss"])
    loss.set(ylabel="value loss,\nunscaled")
    if "train/explained_variance" in scalars:
        explained.plot(scalars["train/explained_variance"])
    explained.set(ylabel="explained\nvariance", xlabel="environment steps")
    figure.savefig(path, dpi=110)


def tear_sheet(agent: pd.Series, benchmark: pd.Series, path: Path, title: str, bars_per_year: float) -> None:
    """
    The HTML report of quantstats, made to load nothing from the network.

    :param agent: returns
    :param benchmark: returns on the same dates
    :param path: HTML file to write
    :param title: heading
    :param bars_per_year: what annualises
    :raises ValueError: if quantstats cannot make one of these returns; no file is left then
    """
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it asks for Arial and takes what there is
    path.unlink(missing_ok=True)
    agent = _as_returns(agent.rename(AGENT))
    benchmark = _as_returns(benchmark.rename(HOLD.label))

    # quantstats fits lines and makes tables without looking whether there is anything to show.
    made = path.with_name(path.name + ".tmp")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantstats().reports.html(
                agent,
                benchmark,
                output=str(made),
                title=html.escape(title),
                periods_per_year=bars_per_year,
                match_dates=False,  # which would leave out the bars before the first trade
            )
    except Exception as error:
        made.unlink(missing_ok=True)
        raise ValueError(f"quantstats makes no tear sheet of these returns ({error})") from error
    text = made.read_text(encoding="utf-8")
    made.unlink()
    write_file(path, _mended(text))


def _as_returns(returns: pd.Series) -> pd.Series:
    """
    Returns that quantstats does not take for prices, as it does where nothing is below 0 and something is 1 or more.

    :param returns: simple
    :return: the same; of such ones a bar without a return has lost a billionth of a per cent
    :raises ValueError: if all of such ones are above 0
    """
    if returns.min() < 0 or not returns.max() >= 1:
        return returns
    if not (returns == 0).any():
        raise ValueError(f"quantstats takes the returns of {returns.name} for prices: all gain, and one doubles")
    still = returns.eq(0).idxmax()
    return returns.mask(returns.index == still, -A_BILLIONTH_OF_A_PERCENT)


def _mended(text: str) -> str:
    """A tear sheet without links to the network, a sign that fonts lack, and bars of years that are a year off."""
    text = re.sub(r"<link[^>]*href=.https?://[^>]*>", "", text).replace("\ufe6a", " %")
    head, *pictures = re.split(r"(?=<svg)", text)
    kept = [head]
    for picture in pictures:
        svg, _, rest = picture.partition("</svg>")
        kept.append(rest if "<!-- EOY Returns" in svg else picture)
    return "".join(kept)
