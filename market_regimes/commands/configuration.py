"""From the command line to a configuration: parsed, completed, and as objects."""

from __future__ import annotations

from types import NoneType
from typing import Any, get_args

import jsonargparse

from market_regimes.commands.arguments import check_flags, values_of
from market_regimes.commands.parser import Parser
from market_regimes.commands.refusals import refusals
from market_regimes.files import found_from_anywhere

SECTIONS = ("run", "market", "market.trading", "algorithm", "algorithm.policy_kwargs")


def parsed(parser: Parser, arguments: list[str]) -> jsonargparse.Namespace:
    """
    :param parser: of a command, or of all
    :param arguments: of the command line
    :return: what they and the files they name say; a file that is no text ends the program, as wrong keys do
    """
    parser.reading.source = ", ".join(values_of("--config", arguments))
    try:
        with refusals(parser, (ValueError,)):
            check_flags(arguments)
        return parser.parse_args(arguments)
    except (UnicodeDecodeError, RecursionError) as error:
        parser.error(f"the configuration {parser.reading.source} cannot be read: {type(error).__name__}")


def instantiated(parser: Parser, config: jsonargparse.Namespace) -> Any:
    """
    :param parser: of ``train``
    :param config: of a run
    :return: its sections as objects, ``run`` and ``market`` as their dataclasses; what these refuse ends the program
    """
    for section in SECTIONS:
        if not isinstance(config[section], jsonargparse.Namespace):
            parser.error(f"the section {section} of the configuration must hold keys, got {config[section]!r}")

    # A null passes every type check of jsonargparse.
    for key, hint in parser.types.items():
        takes_null = hint is None or key in parser.may_be_null or NoneType in get_args(hint)
        if not takes_null and config.get(key, hint) is None:
            parser.error(f"{key} must have a value, got null")

    with refusals(parser):
        return parser.instantiate(config)


def run_with(
    parser: Parser,
    config: jsonargparse.Namespace,
    values: dict[str, Any],
) -> jsonargparse.Namespace:
    """
    :param parser: of ``train``, which checks the values
    :param config: of a comparison or a search
    :param values: by section
    :return: the configuration of one run: the values over the sections of that configuration
    """
    base = jsonargparse.Namespace({key: config[key].clone() for key in ("run", "market", "algorithm")})
    return parser.parse_object(values, namespace=base)


def find_files_from_anywhere(config: jsonargparse.Namespace) -> None:
    """
    Make the paths of the data absolute, so that a run can be resumed and evaluated from another folder.

    :param config: of a command
    """
    for name in ("market.data", "compare.markets"):
        data = config.get(name)
        if data:
            config[name] = found_from_anywhere(data)
