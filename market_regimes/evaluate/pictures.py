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

from market_regimes.evaluate.account import regimes_in
from market_regimes.evaluate.figures import quantstats
from market_regimes.evaluate.strategies import AGENT, HOLD
from market_regimes.files import write_file
from market_regimes.market.regimes import MIN_REGIME_DAYS

A_BILLIONTH_OF_A_PERCENT = 1e-11
LINE_WIDTH = 1.2  # in points
HIDDEN = 0.005  # share of a panel's height within which a line hides another
NAMED_WEIGHTS = 20  # symbols that have their names in a picture of weights
REST = "the rest"
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

    # A panel per ratio.
    rows = len(ratios.get("height_ratios", [1]))
    columns = len(ratios.get("width_ratios", [1]))
    panels = figure.subplots(
        rows,
        columns,
        sharex=rows > 1,
        gridspec_kw=dict(ratios),
    )
    axes: list[Any] = list(panels)
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
    figure, panels = _panels(8, height_ratios=[3, 1.5, 1, 1])
    equity, drawdown, exposure, index = panels
    agent = next(iter(frames.values()))

    # The equity of every strategy, and how far it is below its peak, in per cent.
    curves = [frame["equity"] for frame in frames.values()]
    falls = []
    for curve in curves:
        peak = curve.cummax().clip(lower=1.0)
        falls.append(100 * (curve / peak - 1))

    # Buy-and-hold at the agent's volatility is one more curve.
    hold = frames.get(HOLD.label)
    scaled = None
    if hold is not None:
        scaled = at_volatility(hold["return"], agent["return"])
        curves.append(scaled)

    # Styles by which coinciding curves share a line.
    of_equity = line_styles([np.log(curve) for curve in curves])
    of_falls = line_styles(falls)

    # The agent's equity before costs.
    equity.plot(
        agent.index,
        agent["gross_equity"],
        label="agent, before costs",
        color="C0",
        linewidth=0.8,
        alpha=0.6,
    )

    for i, (name, frame) in enumerate(frames.items()):
        # Equity and drawdown of every strategy; the agent lies on top.
        style = dict(color=f"C{i}", linewidth=LINE_WIDTH, zorder=2)
        if frame is agent:
            style["zorder"] = 3
        equity.plot(frame.index, frame["equity"], label=name, linestyle=of_equity[i], **style)
        drawdown.plot(frame.index, falls[i], linestyle=of_falls[i], **style)

        # Buy-and-hold once more, dashed where no other curve runs along it.
        if name == HOLD.label and scaled is not None:
            style = dict(color=f"C{i}", linewidth=LINE_WIDTH, linestyle=of_equity[-1])
            if of_equity[-1] == "-":
                style |= dict(linewidth=0.8, linestyle="--")
            equity.plot(frame.index, scaled, label=f"{name} at the agent's volatility", **style)

    # The agent's position, smoothed, and the market's volatility.
    position = agent["position"].rolling(20, min_periods=1).mean()
    exposure.plot(agent.index, 100 * position, color="C0", linewidth=0.8)
    index.plot(agent.index, agent["index"], color="0.4", linewidth=0.8)

    # The logarithmic axis has plain numbers.
    equity.set(title=title, ylabel="equity, start = 1", yscale="log")
    ticks = equity_ticks(*equity.get_ylim())
    labels = [f"{tick:g}" for tick in ticks]
    equity.set_yticks(ticks, labels)
    equity.set_yticks([], minor=True)
    equity.legend(frameon=False)

    # The other axes.
    drawdown.set(ylabel="drawdown, %")
    exposure.set(ylabel="agent's position,\n% (20 bars)")
    index.set(ylabel="volatility\nindex")
    figure.savefig(path, dpi=110)


def picture_of_weights(weights: pd.DataFrame, contributions: pd.Series, path: Path, title: str) -> None:
    """
    What an account held, stacked by symbol, and what each symbol contributed. The largest have their names, the rest is
    one sum.

    :param weights: a row per row of the account, a column per symbol
    :param contributions: sum of the simple returns that each symbol earned
    :param path: PNG to write
    :param title: heading
    """
    from matplotlib import colormaps

    figure, (held, earned) = _panels(6, width_ratios=[2, 1])
    by_size = largest_and_rest(weights, weights.abs().mean())
    colors = [colormaps["tab20"](i % NAMED_WEIGHTS) for i in range(len(by_size.columns))]

    # Long weights are stacked upwards, short ones downwards.
    values = 100 * by_size.to_numpy().T
    held.stackplot(by_size.index, values.clip(min=0), labels=by_size.columns, colors=colors, linewidth=0)
    held.stackplot(by_size.index, values.clip(max=0), colors=colors, linewidth=0)
    held.set(title=title, ylabel="weights, % of equity")
    held.tick_params(axis="x", rotation=30)
    held.legend(frameon=False, fontsize=6, ncols=3, loc="upper left")

    # What was earned, the best on top.
    table = contributions.to_frame().T
    parts = 100 * largest_and_rest(table, contributions.abs()).iloc[0].sort_values()
    earned.barh([str(name) for name in parts.index], parts.to_numpy(), color="C0")
    earned.tick_params(axis="y", labelsize=6)
    earned.set(xlabel="contributions, % of equity, summed")
    figure.savefig(path, dpi=110)


def picture_of_costs(curve: dict[str, Any], path: Path, title: str) -> None:
    """
    Growth and Sharpe ratio of the agent and of buy-and-hold over the cost of orders.

    :param curve: from ``CostCurve.to_json``
    :param path: PNG to write
    :param title: heading
    """
    figure, (growth, sharpe) = _panels(5, width_ratios=[1, 1])
    costs = curve["costs"]
    for panel, name, scale in ((growth, "growth", 100.0), (sharpe, "sharpe", 1.0)):
        for label, key, color in ((AGENT, name, "C0"), (HOLD.label, f"{name}_of_hold", "C1")):
            values = scale * np.array(curve[key], dtype=float)
            panel.plot(costs, values, marker="o", label=label, color=color, linewidth=LINE_WIDTH)
        panel.axhline(0.0, color="0.4", linewidth=0.8)

    # Where the agent's growth falls to that of buy-and-hold.
    cost = curve["break_even"]["growth_of_buy_and_hold"]
    if isinstance(cost, float):
        growth.axvline(cost, color="0.4", linestyle=":", label=f"break-even {cost:.1f} bp")

    figure.suptitle(title)
    growth.set(xlabel="fee and slippage, bp of the traded value", ylabel="log growth a year, %")
    sharpe.set(xlabel="fee and slippage, bp of the traded value", ylabel="Sharpe ratio")
    growth.legend(frameon=False)
    figure.savefig(path, dpi=110)


def largest_and_rest(table: pd.DataFrame, size: pd.Series) -> pd.DataFrame:
    """
    :param table: a column per symbol
    :param size: of each symbol
    :return: the columns of the ``NAMED_WEIGHTS`` largest, the largest first, and the sum of the others as ``REST``
    """
    order = size.sort_values(ascending=False, kind="stable").index
    named = table[order[:NAMED_WEIGHTS]].copy()
    if len(order) > NAMED_WEIGHTS:
        named[REST] = table[order[NAMED_WEIGHTS:]].sum(axis=1)
    return named


def line_styles(curves: Sequence[pd.Series]) -> list[Any]:
    """
    Curves that coincide share one line, dash by dash, so that none hides another.

    :param curves: heights on a linear axis, on the same dates or some of them
    :return: matplotlib's style of each: a solid line, or dashes that leave room for the curves that coincide with it
    """
    # Heights within the width of a line are alike.
    heights = np.concatenate([curve.to_numpy(dtype=np.float64) for curve in curves])
    span = float(np.nanmax(heights) - np.nanmin(heights))
    tolerance = HIDDEN * span

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
    for group in groups:
        if len(group) == 1:
            continue
        gap = (len(group) - 1) * DASH
        for place, i in enumerate(group):
            styles[i] = (place * DASH, (DASH, gap))

    return styles


def at_volatility(returns: pd.Series, like: pd.Series) -> pd.Series:
    """
    :param returns: simple, per bar
    :param like: simple returns of the same bars, whose standard deviation is to be had
    :return: equity of the first, 1 at the start, with the position that makes it vary as the second does
    """
    # Returns that do not vary cannot be made to.
    share = 0.0
    spread = float(returns.std())
    if spread > 0:
        share = float(like.std()) / spread

    growth = (1 + share * returns).clip(lower=1e-9)
    return growth.cumprod()


def equity_ticks(low: float, high: float) -> list[float]:
    """
    :param low: end of a logarithmic axis
    :param high: its other end
    :return: plain numbers on it, far enough apart to be read; 1 is among them where the axis has it
    """
    from matplotlib.ticker import MaxNLocator

    ticks: list[float] = []
    if low <= 1 <= high:
        ticks.append(1.0)

    # Round numbers that keep their distance from the ticks before.
    least = 0.05 * np.log(high / low)
    candidates = MaxNLocator(8).tick_values(low, high)
    for tick in map(float, candidates):
        if not low <= tick <= high:
            continue
        distances = [abs(np.log(tick / earlier)) for earlier in ticks]
        if all(distance >= least for distance in distances):
            ticks.append(tick)

    return sorted(ticks)


def picture_of_returns(
    frames: dict[str, pd.DataFrame],
    quantiles: np.ndarray,
    outcomes: np.ndarray,
    title: str,
) -> Any:
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
    dates = first.index

    # The panels name their symbols.
    shown = symbol
    calibrated = symbol
    if len(frames) > 1:
        shown = f"{symbol}, one of {len(frames)} symbols"
        calibrated = "all symbols"

    # The distribution over time, of the first symbol.
    of_first = quantiles[: len(first)]
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    low, lower, middle, upper, high = np.quantile(of_first, levels, axis=1)
    band = dict(color="C0", linewidth=0)
    fan.fill_between(dates, low, high, alpha=0.2, label="predicted, 5 to 95 %", **band)
    fan.fill_between(dates, lower, upper, alpha=0.4, label="25 to 75 %", **band)
    fan.plot(dates, middle, color="C0", linewidth=0.8)
    fan.plot(dates, outcomes[: len(first)], color="C1", linewidth=0.8, label="came")
    fan.set(title=f"{shown}: {title}", ylabel="discounted log growth, %")
    fan.tick_params(axis="x", rotation=30)

    # The share of outcomes below each quantile, by regime.
    count = quantiles.shape[1]
    tau = (np.arange(count) + 0.5) / count
    defined = np.isfinite(outcomes)
    predicted = np.sort(quantiles[defined], axis=1)
    below = outcomes[defined, None] < predicted
    regimes = [frame["regime"].to_numpy() for frame in frames.values()]
    regime = np.concatenate(regimes)[defined]

    # All outcomes, and those of each regime that has enough.
    share.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    share.plot(tau, below.mean(axis=0), color="black", label="all")
    for name in regimes_in(next(iter(frames.values()))):
        inside = regime == name
        if inside.sum() >= MIN_REGIME_DAYS:
            share.plot(tau, below[inside].mean(axis=0), label=name, linewidth=1.0)
    share.set(
        title=f"calibration, {calibrated}",
        xlabel="quantile predicted",
        ylabel="share of outcomes below",
    )

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

    # The rows of updates, by the environment's steps.
    scalars = scalars.dropna(subset=["train/value_loss"])
    scalars = scalars.set_index("time/total_timesteps")
    scalars = scalars.filter(like="train/")

    # The weight and its band.
    figure, (weight, loss, explained) = _panels(6, height_ratios=[2, 1.5, 1.5])
    if "train/variance_scaling_weight" in scalars:
        low = scalars["train/variance_scaling_weight_min"]
        high = scalars["train/variance_scaling_weight_max"]
        weight.fill_between(scalars.index, low, high, alpha=0.25, label="over the minibatches of an update")
        weight.plot(scalars["train/variance_scaling_weight"], label="mean")
        weight.legend(frameon=False)
    weight.set(title=title, ylabel="variance scaling\nweight")

    # The value loss.
    loss.plot(scalars["train/value_loss"])
    loss.set(ylabel="value loss,\nunscaled")

    # The share of the returns' variance that the critic explains.
    if "train/explained_variance" in scalars:
        explained.plot(scalars["train/explained_variance"])
    explained.set(ylabel="explained\nvariance", xlabel="environment steps")

    figure.savefig(path, dpi=110)


def tear_sheet(
    agent: pd.Series,
    benchmark: pd.Series,
    path: Path,
    title: str,
    bars_per_year: float,
) -> None:
    """
    Write the HTML report of quantstats, made to load nothing from the network. Its Sharpe ratio is quantstats' own; all
    other ones come from ``figures.sharpe_ratio``.

    :param agent: the agent's returns
    :param benchmark: the benchmark's returns on the same dates
    :param path: HTML file to write
    :param title: heading
    :param bars_per_year: what annualises
    :raises ValueError: if quantstats cannot make one of these returns; no file is left then
    """
    # No report of an earlier evaluation stays.
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

    # The report, mended.
    text = made.read_text(encoding="utf-8")
    made.unlink()
    write_file(path, _mended(text))


def _as_returns(returns: pd.Series) -> pd.Series:
    """
    Keep quantstats from taking returns for prices, as it does where nothing is below 0 and something is 1 or more.

    :param returns: simple returns
    :return: the same returns; among such ones a bar without a return loses a billionth of a per cent
    :raises ValueError: if all of such returns are above 0
    """
    if returns.min() < 0 or not returns.max() >= 1:
        return returns

    # A loss that no figure shows.
    if not (returns == 0).any():
        raise ValueError(f"quantstats takes the returns of {returns.name} for prices: all gain, and one doubles")
    still = returns.eq(0).idxmax()
    return returns.mask(returns.index == still, -A_BILLIONTH_OF_A_PERCENT)


def _mended(text: str) -> str:
    """A tear sheet without links to the network, a sign that fonts lack, and bars of years that are a year off."""
    text = re.sub(r"<link[^>]*href=.https?://[^>]*>", "", text)
    text = text.replace("\ufe6a", " %")

    # All pictures but the one of yearly returns.
    head, *pictures = re.split(r"(?=<svg)", text)
    parts = [head]
    for picture in pictures:
        svg, _, rest = picture.partition("</svg>")
        if "<!-- EOY Returns" in svg:
            parts.append(rest)
        else:
            parts.append(picture)
    return "".join(parts)
