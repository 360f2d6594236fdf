"""A flag that a constructor's parameter becomes."""

from __future__ import annotations

from typing import Any, NamedTuple


class Flag(NamedTuple):
    """
    A flag of the section ``algorithm``.

    :param name: of the key, like policy_kwargs.n_quantiles
    :param type: of its value, or a function that reads it
    :param default: of its value
    :param help: its line in a command's help
    """

    name: str
    type: Any
    default: Any
    help: str
