"""The reader's assumptions about a file, and unused columns."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Notes:
    """
    Notes on one symbol of a file. Each step of reading returns new notes.

    :param assumptions: assumptions about the file and oddities in it, a sentence each, in the order of the steps
    :param unused_columns: columns without a role as date, symbol, price or volatility index, and in no option
    :param unused_zone: the user's zone if the file itself states another, else None
    """

    assumptions: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()
    unused_zone: str | None = None

    def __add__(self, later: Notes) -> Notes:
        """:return: these notes, followed by the later ones"""
        return Notes(
            self.assumptions + later.assumptions,
            self.unused_columns + later.unused_columns,
            self.unused_zone or later.unused_zone,
        )

    def and_assumed(self, *sentences: str) -> Notes:
        """:return: these notes with further sentences at their end"""
        return replace(self, assumptions=(*self.assumptions, *sentences))


NO_NOTES = Notes()
