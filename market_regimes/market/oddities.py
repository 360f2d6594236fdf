"""Prices that are unusual but usable: jumps, splits that were not adjusted, gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from market_regimes.market.market import Market
from market_regimes.market.periods import date_text
from market_regimes.prices import BarLength, Bars, bar_length

JUMP = 2.0  # factor between two closes from which a user is told
SPLITS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 100.0)  # shares for one
SPLIT_STDS = 4.0  # usual moves by which a ratio may differ from that of a split
NEIGHBOURS = 20  # bars on each side of a move, whose median is the usual move
ROBUST_STD = 1.4826  # standard deviation over median of absolute normal moves
LEAST_STD = 0.005  # of a bar
GAP_DAYS = 20  # days without a bar from which a user is told
USUAL_GAPS = 10  # median distances of bars that make a gap long, where bars are rare

TAKEN_BACK = "moves that are taken back at the next bar"
LIKE_A_SPLIT = "moves like a split that was not adjusted"
LARGE = "moves by a factor of two or more"
GAPS = "long gaps"
QUESTIONS = {
    TAKEN_BACK: " and back at the next bar; a mistaken price?",
    LIKE_A_SPLIT: "; a split that was not adjusted?",
    LARGE: ", by no ratio of a split:",
}


@dataclass(frozen=True)
class Oddity:
    """
    An oddity of a symbol's prices, perhaps an error.

    :param kind: words that the oddity shares with others of its kind
    :param symbol: symbol that has it
    :param text: a sentence with file, symbol and date
    """

    kind: str
    symbol: str
    text: str


def oddities(bars: Bars | Market) -> list[Oddity]:
    """
    :param bars: one symbol
    :return: the largest move that the next bar takes back, the largest like a split, the largest other one by a factor
        of two, and a long gap, where there are such: each may be an error
    """
    move = np.diff(np.log(bars.close))
    is_large = np.abs(move) > np.log(JUMP)

    # Each move is of one kind.
    is_taken_back = _taken_back(move, is_large)
    is_split = _like_splits(bars, move) & ~is_taken_back
    masks = {
        TAKEN_BACK: is_taken_back,
        LIKE_A_SPLIT: is_split,
        LARGE: is_large & ~is_split & ~is_taken_back,
    }

    # The largest of each kind, and the longest gap.
    found = []
    for kind, mask in masks.items():
        if mask.any():
            found.append(_largest_move(bars, move, mask, kind))
    found += _long_gap(bars)
    return found


def _taken_back(move: np.ndarray, is_large: np.ndarray) -> np.ndarray:
    """Large moves of which the next bar takes back more than half, and the moves that do so, shape (T - 1,)."""
    rest = np.abs(move[:-1] + move[1:])
    half = np.abs(move[:-1]) / 2
    returns = is_large[:-1] & (rest < half)

    # The move, and the next one that takes it back.
    first = np.append(returns, False)
    second = np.insert(first[:-1], 0, False)
    either: np.ndarray = first | second
    return either


def _largest_move(bars: Bars | Market, move: np.ndarray, mask: np.ndarray, kind: str) -> Oddity:
    """The largest of the masked moves, with the number of all."""
    size = np.where(mask, np.abs(move), 0.0)
    bar = int(np.argmax(size)) + 1

    # Its change of the price in per cent, and its day.
    change = 100 * (bars.close[bar] / bars.close[bar - 1] - 1)
    day = date_text(bars.dates[bar])
    count = int(mask.sum())
    text = (
        f"{bars.source}: close of {bars.symbol} moves by {change:+.0f} % on {day}{QUESTIONS[kind]} {count} such bar(s)"
    )
    return Oddity(kind, bars.symbol, text)


def _long_gap(bars: Bars | Market) -> list[Oddity]:
    """The longest gap, if it is long."""
    days = np.diff(bars.dates).astype("m8[D]").astype(int)
    gap = int(np.argmax(days))

    # Where bars are rare, a gap is long only beside the usual distance.
    usual = float(np.median(days))
    if days[gap] <= max(GAP_DAYS, USUAL_GAPS * usual):
        return []

    since = date_text(bars.dates[gap])
    text = f"{bars.source}: {bars.symbol} has no bar for {days[gap]} days from {since}"
    return [Oddity(GAPS, bars.symbol, text)]


def _like_splits(bars: Bars | Market, move: np.ndarray) -> np.ndarray:
    """
    Closes that differ by the ratio of a split and a usual move; of days, opens must do so as well, since shares are
    split over night. A crash falls in the session, or by a ratio that no split has.

    :param move: log returns, shape (T - 1,)
    :return: mask of the returns, shape (T - 1,)
    """
    # The usual move is the median of the bars around, which the split itself does not move.
    size = pd.Series(np.abs(move))
    window = size.rolling(
        2 * NEIGHBOURS + 1,
        center=True,
        min_periods=NEIGHBOURS,
    )
    around = window.median().to_numpy()
    usual = np.fmax(around, float(size.median()))
    spread = np.maximum(usual * ROBUST_STD, LEAST_STD)

    # The closes, and of days the opens, must differ by the ratio of a split.
    is_split = _is_ratio(move, spread)
    length = bar_length(bars.dates)
    is_daily = length.unit == "second" or length == BarLength("day", 1)
    has_opens = bars.fill == "open" and not np.array_equal(bars.open, bars.close)
    if is_daily and has_opens:
        overnight = np.log(bars.open[1:] / bars.close[:-1])
        is_split &= _is_ratio(overnight, spread)
    return is_split


def _is_ratio(move: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Whether each log return is near the logarithm of a split's ratio, shape (T - 1,)."""
    size = np.abs(move)
    distances = np.abs(size[:, None] - np.log(SPLITS))
    distance = distances.min(axis=1)
    is_near: np.ndarray = distance <= SPLIT_STDS * spread
    return is_near
