"""What is refused ends the program in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from market_regimes.commands.parser import Parser
from market_regimes.config import ArgumentError

# What constructors raise on values they refuse; anything else is a mistake of ours and shows its traceback.
REFUSALS = (ValueError, TypeError, AssertionError, ArithmeticError, OSError, RuntimeError, ImportError)
UNREADABLE = (ValueError, OSError)  # what reading a run or a file raises

# Arguments of the Python interface by their flags.
FLAGS = {
    "like": "--like",
    "first": "--from",
    "last": "--to",
    "position": "--position",
    "prices": "--data",
    "device": "--device",
    "zone": "--zone",
    "resume": "--resume",
    "fee": "--fee",
    "slippage": "--slippage",
    "fill": "--fill",
    "delay": "--delay",
    "costs": "--costs",
}


@contextmanager
def refusals(parser: Parser, kinds: tuple[type[Exception], ...] = REFUSALS) -> Iterator[None]:
    """
    End the program in one sentence where the code within raises; a closed pipe is passed on.

    :param parser: prints the sentence
    :param kinds: of exceptions whose message is the sentence; among all of ``REFUSALS`` all but a ValueError are
        named in it
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except ArgumentError as error:
        parser.error(error.sentence(lambda argument: FLAGS[argument]))
    except kinds as error:
        is_sentence = str(error) and (isinstance(error, ValueError) or not set(REFUSALS) <= set(kinds))
        parser.error(str(error) if is_sentence else f"{type(error).__name__}: {error}")
