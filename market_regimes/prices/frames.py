"""Frames of a user whose index holds dates or symbols."""

from __future__ import annotations

import pandas as pd

from market_regimes.prices.dates import holds_days


def with_index_as_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """
    :param frame: with the columns that files have; the dates may be its index
    :return: the frame with the levels of its index that hold dates, or have names, as columns
    """
    # Levels with names become columns, counts do not.
    index = _named(frame.index)
    frame = frame.set_axis(index, axis=0)
    has_names = any(name is not None and name not in frame.columns for name in index.names)
    return frame.reset_index(drop=not has_names)


def _named(index: pd.Index) -> pd.Index:
    """The index with names for the levels that hold dates or, beside dates, symbols; periods begin."""
    levels = []
    for position, name in enumerate(index.names):
        # A period is named by its beginning.
        level = index.get_level_values(position)
        if isinstance(level, pd.PeriodIndex):
            level = level.to_timestamp()
        if name is None and holds_days(level.to_series()):
            name = "date"
        levels.append(level.rename(name))

    # Words that stand beside dates in an index tell whose they are.
    unnamed = [position for position, level in enumerate(levels) if level.name is None]
    if len(levels) == 2 and len(unnamed) == 1 and not pd.api.types.is_numeric_dtype(levels[unnamed[0]].dtype):
        levels[unnamed[0]] = levels[unnamed[0]].rename("symbol")
    if len(levels) == 1:
        return levels[0]
    return pd.MultiIndex.from_arrays(levels)
