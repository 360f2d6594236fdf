"""What a user states about files that do not decide it themselves."""

from __future__ import annotations

from dataclasses import dataclass, field

from market_regimes.prices.columns import COLUMNS


@dataclass(frozen=True)
class ReadOptions:
    """
    What a user states about files that do not decide it themselves.

    :param columns: name of this program (``COLUMNS``) -> name in the file; "" if the file's column is not to be used;
        the columns of a file without a header are numbered from "1"
    :param date_format: a format of ``datetime.strptime``, or "day_first" or "month_first"
    :param decimal: "." or ",", the mark before the decimals
    :param own: columns that are read because an option names them -> that option
    :param closes: columns of a table that has one column of closes per symbol; "all": every column of numbers
    :param side: "bid", "ask" or "mid", which is traded where a file has prices of several
    :param zone: of files that state none, a name like America/New_York or an offset like -05:00; or file -> zone
    :param off_grid: "drop" or "keep", what becomes of rows between the times at which bars are stamped
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
        # Names that this program does not have.
        unknown = [name for name in self.stated if name not in COLUMNS]
        if unknown:
            raise ValueError(f"market.columns: {', '.join(unknown)} is none of {', '.join(COLUMNS)}")

        # A mark before decimals.
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"market.decimal is '.' or ',', got {self.decimal!r}")

        # An order of day and month, or a format.
        orders = (None, "day_first", "month_first")
        if self.date_format not in orders and "%" not in str(self.date_format):
            raise ValueError(
                f"market.date_format is day_first, month_first or a format like %d/%m/%Y, got {self.date_format!r}"
            )

    @property
    def stated(self) -> dict[str, str]:
        """``columns``, empty if the user states none."""
        return self.columns or {}
