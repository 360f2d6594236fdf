"""The command line as a list of texts, and the configuration files that it names, before anything is parsed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from market_regimes.files import check_keys

# Flags that take several values at once.
LISTS = {
    "--data": "--data a.csv b.csv",
    "--position": "--position AAPL=0.5 JPM=0.2",
    "--market.data": "--market.data='[a.csv, b.csv]'",
}


def values_of(flag: str, arguments: list[str]) -> list[str]:
    """
    :param flag: like --config
    :param arguments: of the command line
    :return: the value of every occurrence, as ``--flag value`` or ``--flag=value``
    """
    # As --flag=value, then as --flag value.
    after_equals = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]
    return after_equals + [value for name, value in pairwise(arguments) if name == flag]


def check_flags(arguments: list[str]) -> None:
    """
    :param arguments: of the command line
    :raises ValueError: if a flag's value has a key twice, as in ``--market.columns='{close: A, close: B}'``, or a file
        that it names; if a flag that takes several values stands twice, of which the last would win
    """
    for name, form in LISTS.items():
        count = sum(argument == name or argument.startswith(f"{name}=") for argument in arguments)
        if count > 1:
            raise ValueError(f"{name} stands {count} times: give all its values together, as in {form}")

    # Every flag with its value, as --flag=value or --flag value.
    given = [argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument]
    given += [[name, value] for name, value in pairwise(arguments) if name.startswith("--") and "=" not in name]
    for name, value in given:
        if value.lstrip().startswith(("{", "[")):
            check_keys(value, name)
        elif _names_section(value):
            check_sections(Path(value).read_text("utf-8-sig"), value)


def check_sections(text: str, source: str) -> None:
    """
    :param text: of a configuration
    :param source: its file
    :raises ValueError: if it has a key twice, or a file that one of its sections names has
    """
    check_keys(text, source)
    try:
        content = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return  # the parser refuses it

    sections = content.values() if isinstance(content, dict) else ()
    for value in sections:
        if _names_section(value):
            check_keys(Path(value).read_text("utf-8-sig"), value)


def _names_section(value: Any) -> bool:
    """Whether a value names a file that jsonargparse would read a section from."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()


def contents_of_files(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """
    :param arguments: of the command line
    :return: by configuration file its values by dotted keys; a file that cannot be read is left out
    """
    contents = {}
    for name in values_of("--config", arguments):
        try:
            content = yaml.safe_load(Path(name).expanduser().read_text("utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue  # the parser refuses it

        if isinstance(content, dict):
            contents[name] = dict(_flattened(content))
    return contents


def _flattened(content: dict[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of nested mappings with the dotted path of its keys."""
    for key, value in content.items():
        name = f"{path}{key}"
        yield name, value
        if isinstance(value, dict):
            yield from _flattened(value, f"{name}.")


def files_first(arguments: list[str]) -> list[str]:
    """
    :param arguments: of the command line
    :return: the configuration files, in their order, before all flags: a flag overrules a file wherever it stands
    """
    files: list[str] = []
    flags: list[str] = []
    is_value = False  # of --config

    for argument in arguments:
        names_file = is_value or argument == "--config" or argument.startswith("--config=")
        is_value = argument == "--config" and not is_value
        if names_file:
            files.append(argument)
        else:
            flags.append(argument)
    return files + flags


def without_flag(flag: str, arguments: list[str]) -> list[str]:
    """
    :param flag: like --run.import
    :param arguments: of the command line
    :return: the arguments without the flag and its values
    """
    remaining: list[str] = []
    is_value = False

    for argument in arguments:
        if argument == flag:
            is_value = True
        elif is_value:
            is_value = False
        elif not argument.startswith(f"{flag}="):
            remaining.append(argument)
    return remaining


def wants_defaults(arguments: list[str]) -> bool:
    """
    :param arguments: of a command
    :return: whether its shipped configuration lies below the files: a resumed run has its own, and no file or flag may
        say ``defaults: none``
    """
    if "--resume" in arguments or values_of("--resume", arguments):
        return False
    if "none" in values_of("--defaults", arguments):
        return False

    # A file may say so, too.
    return all(content.get("defaults") != "none" for content in contents_of_files(arguments).values())
