"""What an evaluation showed, in a sentence."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from market_regimes.evaluate.backtest import RANDOM_RUNS
from market_regimes.evaluate.tables import figure_text, median

LUCK = 0.95  # share of the shifted copies that must be worse, or not worse, before timing counts as more than luck


def verdict_of(result: dict[str, Any]) -> str:
    """
    :param result: of one evaluation, as its JSON holds it
    :return: whether the agent beat buy-and-hold, and whether its timing can be told from luck
    """
    agent, held = result["joint"]["agent"], result["joint"].get("buy and hold")
    if held is None:
        return (
            f"Mean return {agent['mean_reward']:.2f} over new episodes, standard deviation {agent['std_reward']:.2f}."
        )
    own, other = agent["sharpe_ratio"], held["sharpe_ratio"]
    if own is None:
        return (
            "The agent's returns do not vary, so it has no Sharpe ratio: it never held a position, or only for one bar."
        )
    return f"{_against(own, other)}; {_timing(result['share_of_random_timings_below_agent'])}."


def verdict_of_seeds(results: Collection[dict[str, Any]]) -> str:
    """
    :param results: of the same evaluation, one per seed
    :return: how many seeds beat buy-and-hold, and the timing of how many can be told from luck
    """
    agents = [result["joint"]["agent"] for result in results]
    held = next(iter(results))["joint"].get("buy and hold")
    if held is None:
        mean = median([agent["mean_reward"] for agent in agents])
        return f"Median of the mean returns of {len(agents)} seeds: {figure_text('mean_reward', mean)}."
    other = held["sharpe_ratio"]
    own = [agent["sharpe_ratio"] for agent in agents]
    better = sum(ratio is not None and other is not None and ratio > other for ratio in own)
    shares = [result["share_of_random_timings_below_agent"] for result in results]
    timed = sum(share is not None and share >= LUCK for share in shares)
    ratios = f"{figure_text('', median(own))} against {figure_text('', other)}"
    beat = f"{better} of {len(agents)} seeds beat buy-and-hold: median Sharpe ratio {ratios}"
    return f"{beat}; the timing of {timed} is better than luck."


def _against(own: float, other: float | None) -> str:
    if other is None:
        return f"Sharpe ratio {own:.2f}; buy-and-hold has none"
    if f"{own:.2f}" == f"{other:.2f}":
        return f"Level with buy-and-hold: Sharpe ratio {own:.2f} against {other:.2f}"
    return f"{'Beat' if own > other else 'Lost to'} buy-and-hold: Sharpe ratio {own:.2f} against {other:.2f}"


def _timing(share: float) -> str:
    """:param share: of the agent's trades at random times that have a lower Sharpe ratio"""
    below = round(share * RANDOM_RUNS)
    copies = f"{below} of {RANDOM_RUNS} shifted copies are worse"
    if share >= LUCK:
        return f"its timing is better than luck: {copies}"
    if share <= 1 - LUCK:
        return f"its timing is worse than luck: {copies}"
    return f"its timing cannot be told from luck: {copies}"
