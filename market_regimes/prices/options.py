"""The user's options for files that leave something open."""

from __future__ import annotations

from dataclasses import dataclass, field

from market_regimes.prices.columns import COLUMNS


@dataclass(frozen=True)
class ReadOptions:
    """
    The user's options for files that leave something open.

    :param columns: role (``COLUMNS``) -> name in the file; "": do not use the file's column. Columns of a file without
        a header are numbered from "1"
    :param date_format: a format of ``datetime.strptime``, "day_first" or "month_first"
    :param decimal: decimal mark, "." or ","
    :param own: column that an option names -> that option
    :param closes: columns of a table with one column of closes per symbol; "all": every column of numbers
    :param side: traded side, "bid", "ask" or "mid", of a file with prices of several
    :param zone: zone of files that state none, a name like America/New_York or an offset like -05:00; or file -> zone
    :param off_grid: "drop" or "keep" rows between the usual times of bars
    """

    columns: dict[str, str] | None = None
    date_format: str | None = None
    decimal: str | None = None
    own: dict[str, str] = field(default_factory=dict)
    closes: list[str] | str | None = None
    side: str | None = None
    zone: str | dict[str, str] | None = None
    off_grid: str | None = None

    def __post_init__(self) -> None:
        # Refuse unknown roles.
        unknown = [name for name in self.stated if name not in COLUMNS]
        if unknown:
            raise ValueError(f"market.columns: {', '.join(unknown)} is none of {', '.join(COLUMNS)}")

        # Check the decimal mark.
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"market.decimal is '.' or ',', got {self.decimal!r}")

        # Check the order of day and month, or the format.
        orders = (None, "day_first", "month_first")
        if self.date_format not in orders and "%" not in str(self.date_format):
            raise ValueError(
                f"market.date_format is day_first, month_first or a format like %d/%m/%Y, got {self.date_format!r}"
            )

    @property
    def stated(self) -> dict[str, str]:
        """``columns``, empty without the user's."""
        return self.columns or {}
