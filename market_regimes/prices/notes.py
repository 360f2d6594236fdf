"""What the reader assumed about a file, and what it left unused."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Notes:
    """
    Notes on one symbol of a file, collected from step to step. Each step returns new notes.

    :param assumptions: what was assumed about the file and what is odd in it, a sentence each, in the steps' order
    :param unused_columns: columns that are no date, symbol, price or volatility index, and that no option names
    :param unused_zone: zone that the user states although the file itself states another; None if there is no such
    """

    assumptions: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()
    unused_zone: str | None = None

    def __add__(self, others: Notes) -> Notes:
        """:return: these notes, followed by the others"""
        return Notes(
            self.assumptions + others.assumptions,
            self.unused_columns + others.unused_columns,
            self.unused_zone or others.unused_zone,
        )

    def and_assumed(self, *sentences: str) -> Notes:
        """:return: these notes with further sentences at their end"""
        return replace(self, assumptions=(*self.assumptions, *sentences))


NO_NOTES = Notes()
