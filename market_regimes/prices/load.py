"""From files to bars: what ``read``, ``layout``, ``amounts`` and ``times`` find out, put together for every symbol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.prices.bars import Bars, Columns, checked_bars
from market_regimes.prices.columns import without_side
from market_regimes.prices.layout import holds_days, layout_of, own_columns
from market_regimes.prices.numbers import convention_of, is_text, numbers_of, unreadable
from market_regimes.prices.read import SUFFIXES, is_readable, read_table, table_of_frame
from market_regimes.prices.table import RawTable, ReadOptions, Rows, is_missing
from market_regimes.prices.times import Times, add_time_of_day, agrees_with, read_times, time_of_day, with_instants


def read_files(entries: Sequence[str], options: ReadOptions | None = None) -> list[Bars]:
    """
    :param entries: files, and folders of files: CSV and its kin, perhaps compressed, Parquet, spreadsheets
    :param options: what the user states about them
    :return: the bars of each symbol, in the order found
    :raises ValueError: in one sentence with file, rows, dates and the option that decides, if the data cannot be used
    """
    result: dict[str, Bars] = {}
    for entry in entries:
        path = Path(entry)
        files = sorted(file for file in path.iterdir() if is_readable(file)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"the folder {path} holds no file that ends in {', '.join(SUFFIXES)}")
        for file in files:
            if not is_readable(file):
                raise ValueError(
                    f"market.data: {file} does not end in {', '.join(SUFFIXES)}, nor is it a folder of such files"
                )
            for bars in bars_of(read_table(file, options or ReadOptions()), options or ReadOptions()):
                if bars.symbol in result:
                    raise ValueError(
                        f"the symbol {bars.symbol} is in {result[bars.symbol].source} and in {bars.source}"
                    )
                result[bars.symbol] = bars
    return _of_one_side(list(result.values()), (options or ReadOptions()).side)


def check_zones(zone: str | dict[str, str] | None, read: Sequence[Bars]) -> None:
    """
    :param zone: as the user states it
    :param read: the bars of every symbol
    :raises ValueError: if it names a file or a symbol that is not there, or every file states another zone itself
    """
    if isinstance(zone, str) and read and all(bars.refuted_zone == zone for bars in read):
        raise ValueError(
            f"market.zone={zone} states the zone of files without one, and {read[0].source} states {read[0].zone} "
            "itself: leave market.zone away"
        )
    for name in zone if isinstance(zone, dict) else ():
        if not any(name in _names_of(bars.symbol, bars.source) for bars in read):
            raise ValueError(f"market.zone names {name}, and no file or symbol is called so")


def _of_one_side(read: list[Bars], side: str | None) -> list[Bars]:
    """EURUSD_BID.csv and EURUSD_ASK.csv are one instrument: the side that is stated is kept."""
    sides: dict[str, dict[str, str]] = {}
    for bars in read:
        split = without_side(bars.symbol)
        if split is not None:
            sides.setdefault(split[1], {})[split[0]] = bars.symbol
    left_out: set[str] = set()
    for symbols in sides.values():
        if len(symbols) < 2:
            continue
        if side not in symbols:
            first, second, *_ = symbols.values()
            raise ValueError(
                f"{first} and {second} are two sides of one instrument: set market.side to {' or '.join(symbols)}"
            )
        left_out |= {symbol for name, symbol in symbols.items() if name != side}
    return [bars for bars in read if bars.symbol not in left_out]


def read_frame(
    frame: pd.DataFrame,
    symbol: str | None,
    own: dict[str, str] | None = None,
    zone: str | dict[str, str] | None = None,
    off_grid: str | None = None,
) -> list[Bars]:
    """
    :param frame: with the columns that files have; the dates may be its index
    :param symbol: whose bars they are where the frame names none; None: it must name them
    :param own: columns that are read because an option names them -> that option
    :param zone: of frames that state none, or symbol -> zone
    :param off_grid: "drop" or "keep", what becomes of rows between the times at which bars are stamped
    :return: the bars of every symbol, in the order found
    :raises ValueError: in one sentence with row and date, if the data cannot be used
    """
    frame = _with_named_index(frame)
    kept = [name for name in frame.index.names if name is not None and name not in frame.columns]
    frame = frame.reset_index(drop=not kept)
    options = ReadOptions(own=own or {}, zone=zone, off_grid=off_grid)
    file = _File(table_of_frame(Path(symbol or "the frame"), frame), options)
    if file.layout.symbol is None and list(file.layout.fields) == [""]:
        if symbol is None:
            raise ValueError("the frame lacks the column symbol, and the run knows several")
        return [replace(bars, symbol=symbol) for bars in file.bars()]
    return list(file.bars())


def _with_named_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with names for the levels of its index that hold dates or, beside dates, symbols; periods begin."""
    levels = []
    for position, name in enumerate(frame.index.names):
        level = frame.index.get_level_values(position)
        if isinstance(level, pd.PeriodIndex):
            level = level.to_timestamp()
        if name is None and holds_days(level.to_series()):
            name = "date"
        levels.append(level.rename(name))

    # What stands beside dates in an index tells whose they are.
    unnamed = [position for position, level in enumerate(levels) if level.name is None]
    if len(levels) == 2 and len(unnamed) == 1 and not pd.api.types.is_numeric_dtype(levels[unnamed[0]].dtype):
        levels[unnamed[0]] = levels[unnamed[0]].rename("symbol")
    index = levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)
    return frame.set_axis(index, axis=0)


def bars_of(table: RawTable, options: ReadOptions) -> list[Bars]:
    """
    :param table: a file's rows
    :param options: what the user states about them
    :return: the bars of each symbol in them
    :raises ValueError: in one sentence, if they cannot be used
    """
    return list(_File(table, options).bars())


class _File:
    """A file's rows with their meaning: numbers, times and symbols of all rows that have prices."""

    def __init__(self, table: RawTable, options: ReadOptions) -> None:
        if table.frame.empty:
            raise ValueError(f"{table.source} has {'a header and ' * table.has_header}no rows")
        self.source = table.source
        self.layout = layout_of(table, options)
        self.said = [*table.said, *self.layout.said]
        self._pairs = table.pairs
        self.own = own_columns(table, self.layout, options.own)
        fields = [column for columns in self.layout.fields.values() for column in columns.values()]
        columns = [table.frame[name] for name in dict.fromkeys([*fields, *self.own])]
        convention = convention_of(self.source, columns, options.decimal, table.decimal)
        self.said += convention.said
        self.decimal = convention.decimal
        frame = table.frame
        if table.read_by is not None and self.decimal != table.decimal:
            frame = table.read_by(self.decimal)  # a point of thousands was taken for a decimal one
        self.has_price = {name: ~is_missing(frame[name]) for name in self.layout.prices()}
        kept = np.logical_or.reduce(list(self.has_price.values()))
        self.rows = Rows(self.source, frame.index.to_numpy(), frame[self.layout.dates[0]], table.has_header)
        self._tell_dropped(kept, [name for name in self.own if (~is_missing(frame[name]) & ~kept).any()])
        if not kept.all():
            self.rows, frame = self.rows.take(kept), frame.loc[kept]
            self.has_price = {name: present[kept] for name, present in self.has_price.items()}
        self.frame = frame
        used = {*fields, *self.own, self.layout.symbol}
        self.unused = [str(name) for name in frame if name not in used]
        self.unused_volume = "volume" not in options.own
        for name in self.own:
            # Half a position is 0.5: 50 % would be read as 50 times the equity.
            is_share = options.own.get(table.pairs.get(name, (name, ""))[0]) == "market.benchmark_positions"
            bad = unreadable(frame[name], numbers_of(frame[name], self.decimal, True, percent=not is_share))
            self.rows.refuse(bad, f"{name} is not a finite number", frame[name])
        self.zone = options.zone
        self.off_grid = options.off_grid
        self.times = self._times(options)

    def _tell_dropped(self, kept: np.ndarray, lost: list[str]) -> None:
        dropped = np.flatnonzero(~kept)
        values = f", and with them values of {', '.join(lost)}" if lost else ""
        if len(dropped) == len(kept):
            raise ValueError(f"{self.source} has no prices in any row")
        if len(dropped) == 1 and dropped[0] == len(kept) - 1:
            self.said.append(f"dropped the last row ({self.rows.day(dropped[0])}), which has no prices{values}")
        elif len(dropped):
            first = self.rows.day(dropped[0])
            self.said.append(f"dropped {len(dropped)} row(s) without prices, the first {first}{values}")

    def _times(self, options: ReadOptions) -> Times:
        """Times of the rows, from one column or two."""
        first, *others = self.layout.dates
        time = self.layout.time or next((name for name in self.layout.dates if self._is_time_of_day(name)), None)
        if time == first and others:
            first, *others = others
        others = [name for name in others if name != time]
        self.rows = replace(self.rows, date=self.frame[first])
        self.unused = [name for name in self.unused if name not in (first, time)]
        cells = self.frame[first]
        if time is not None and time != first and "%H" in str(options.date_format):
            cells, time = cells.astype(str) + " " + self.frame[time].astype(str), None
        times = read_times(self.rows, cells, options.date_format)
        if times.zone is None and any(word in first.lower() for word in ("gmt", "utc")):
            times = replace(times, zone="UTC", has_instants=True)
        if time is not None and time != first:
            times = add_time_of_day(self.rows, times, self.frame[time])
        return self._agreed(times, first, others)

    def _is_time_of_day(self, name: str) -> bool:
        if "time" not in name.lower() or len(self.layout.dates) < 2 or not is_text(self.frame[name]):
            return False
        seconds, _ = time_of_day(self.frame[name].iloc[:20])
        return bool(np.isfinite(seconds).any())

    def _agreed(self, times: Times, first: str, others: list[str]) -> Times:
        """The finest of several columns of dates, which must agree."""
        for name in others:
            try:
                other = read_times(self.rows, self.frame[name])
            except ValueError:
                other = None
            if other is not None and (other.clock == times.clock).all():
                continue
            if other is not None and (other.clock.astype("M8[D]") == times.clock).all():
                times, first = other, name
            elif other is None or not (times.clock.astype("M8[D]") == other.clock).all():
                raise ValueError(
                    f"{self.source} has two columns for date: {first} and {name}; market.columns states which to use"
                )
        return times

    def bars(self) -> Iterator[Bars]:
        """The bars of each symbol."""
        columns = {column for fields in self.layout.fields.values() for column in fields.values()}
        numbers = {column: numbers_of(self.frame[column], self.decimal) for column in columns - set(self._volumes())}
        numbers |= {column: self._volume(column) for column in self._volumes()}
        extra = {column: numbers_of(self.frame[column], self.decimal, True) for column in self.own}
        extra |= {column: values for column in self.unused if (values := self._extra(column)) is not None}
        for symbol, positions in self._symbols():
            for name, fields in self.layout.fields.items():
                mine = self._positions(positions, fields, name)
                times = self._with_instants(self.times.take(mine), name or symbol)
                others = [(self._pairs.get(column, (column, name)), values) for column, values in extra.items()]
                yield checked_bars(
                    Columns(
                        name or symbol,
                        self.rows.take(mine),
                        times,
                        {role: numbers[column][mine] for role, column in fields.items()},
                        {role: self.frame[column].iloc[mine] for role, column in fields.items()},
                        {one: values[mine] for (one, owner), values in others if owner == name},
                        [
                            *(fields[role] for role in ("volume",) if role in fields and self.unused_volume),
                            *self.unused,
                        ],
                        [
                            *self.said,
                            *times.said,
                            *self._notes_on_absence(name, len(positions) - len(mine)),
                            *self._notes_on_gaps(fields, name, mine, numbers | extra),
                        ],
                        self.off_grid,
                    )
                )

    def _with_instants(self, times: Times, symbol: str) -> Times:
        """The times with their instants, by the zones of the file or by the one that is stated for it."""
        of_file = with_instants(times, None)
        stated = self._zone_of(symbol)
        refuted = stated is not None and of_file.has_instants and not agrees_with(of_file, stated)
        if refuted and isinstance(self.zone, dict):
            raise ValueError(
                f"market.zone states {stated} for {symbol}, and {self.source} states {of_file.zone} itself"
            )
        if refuted:
            note = f"the file states {of_file.zone} itself: market.zone={stated} is not used"
            return replace(of_file, said=[*of_file.said, note], refuted_zone=stated)
        return with_instants(times, stated)

    def _zone_of(self, symbol: str) -> str | None:
        """The zone that the user states for a symbol, None: no zone."""
        if not isinstance(self.zone, dict):
            return self.zone
        names = _names_of(symbol, self.source)
        return next((zone for name, zone in self.zone.items() if name in names), None)

    def _volume(self, column: str) -> np.ndarray:
        """A column's volumes; a cell that is none is refused where an option needs it."""
        cells = self.frame[column]
        values = numbers_of(cells, self.decimal, multiples=True, percent=False)
        if not self.unused_volume:
            self.rows.refuse(unreadable(cells, values), "volume is not a finite number", cells)
        return np.where(np.isfinite(values), values, np.nan)

    def _notes_on_absence(self, name: str, absent: int) -> list[str]:
        return [f"{name} has no prices on {absent} of the file's dates"] if absent else []

    def _notes_on_gaps(
        self, fields: dict[str, str], name: str, mine: np.ndarray, numbers: dict[str, np.ndarray]
    ) -> list[str]:
        """Where a column besides prices has no number, a sentence each."""
        roles: list[str] = [role for role in ("volatility_index", "volume") if role in fields]
        columns = {role: fields[role] for role in roles}
        pairs = {column: self._pairs.get(column, (column, name)) for column in self.own}
        columns |= {field: column for column, (field, owner) in pairs.items() if owner == name}
        notes = []
        for field, column in columns.items():
            cells, rows = self.frame[column].iloc[mine], self.rows.take(mine)
            bad = unreadable(cells, numbers[column][mine])
            if bad.any():
                first = int(np.argmax(bad))
                where = f"{bad.sum()} row(s), the first {rows.day(first)}, {str(cells.iloc[first])[:20]!r}"
                notes.append(f"{field} is no number in {where}: taken as missing")
            missing = is_missing(cells)
            if missing.any():
                notes.append(
                    f"{field} is missing in {missing.sum()} row(s), the first {rows.day(int(np.argmax(missing)))}"
                )
        return notes

    def _volumes(self) -> list[str]:
        return [fields["volume"] for fields in self.layout.fields.values() if "volume" in fields]

    def _extra(self, column: str) -> np.ndarray | None:
        """A column's numbers, None if it holds something else."""
        cells = self.frame[column]
        if (
            column in self.layout.dates
            or column.startswith("Unnamed: ")
            or cells.dtype == bool
            or cells.dtype.kind in "mM"
        ):
            return None
        if is_text(cells) and not np.isfinite(numbers_of(cells.iloc[:100], self.decimal, True)).any():
            return None
        values = numbers_of(cells, self.decimal, True)
        whole = bool((np.isfinite(values) | is_missing(cells)).all() and np.isfinite(values).any())
        return values if whole else None

    def _positions(self, positions: np.ndarray, fields: dict[str, str], name: str) -> np.ndarray:
        if not name:
            return positions
        present = [self.has_price[column][positions] for column in fields.values() if column in self.has_price]
        return np.asarray(positions[np.logical_or.reduce(present)])

    def _symbols(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each symbol with the positions of its rows."""
        everything = np.arange(len(self.frame))
        if self.layout.symbol is None:
            yield _stem(Path(self.source)), everything
            return
        cells = self.frame[self.layout.symbol]
        self.rows.refuse(cells.isna().to_numpy(), "symbol is missing")
        codes, symbols = pd.factorize(cells.astype(str).str.split().str.join(" "))
        order, bounds = np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))
        for symbol, positions in zip(symbols, np.split(order, bounds[:-1]), strict=True):
            yield str(symbol), positions


def _names_of(symbol: str, source: str) -> tuple[str, ...]:
    """What market.zone may call a symbol."""
    return symbol, source, Path(source).name, _stem(Path(source))


def _stem(path: Path) -> str:
    """The name of a file without what tells its format."""
    suffixes = "".join(path.suffixes[-2:]) if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip") else path.suffix
    return path.name.removesuffix(suffixes)
