"""A user's frames whose index has dates or symbols."""

from __future__ import annotations

import pandas as pd

from market_regimes.prices.dates import holds_days


def with_index_as_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """
    :param frame: frame with the columns of a file; its index may have the dates
    :return: frame whose index levels with dates or names are columns
    """
    # Turn levels with names into columns. Drop counts.
    index = _with_names(frame.index)
    frame = frame.set_axis(index, axis=0)
    has_names = any(name is not None and name not in frame.columns for name in index.names)
    return frame.reset_index(drop=not has_names)


def _with_names(index: pd.Index) -> pd.Index:
    """Name the levels with dates or, beside dates, symbols. A period becomes its start."""
    levels = []
    for position, name in enumerate(index.names):
        # Name a period by its start.
        level = index.get_level_values(position)
        if isinstance(level, pd.PeriodIndex):
            level = level.to_timestamp()
        if name is None and holds_days(level.to_series()):
            name = "date"
        levels.append(level.rename(name))

    # Words beside dates in an index are symbols.
    unnamed = [position for position, level in enumerate(levels) if level.name is None]
    if len(levels) == 2 and len(unnamed) == 1 and not pd.api.types.is_numeric_dtype(levels[unnamed[0]].dtype):
        levels[unnamed[0]] = levels[unnamed[0]].rename("symbol")
    if len(levels) == 1:
        return levels[0]
    return pd.MultiIndex.from_arrays(levels)
