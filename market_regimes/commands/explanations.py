"""Errors of the command line in one sentence, with the form that is wanted or the nearest valid name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

# How the values of a type are written; of functions, by their names.
FORMS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number like 64",
    float: "a number like 0.5",
    str: "text",
    Path: "a path",
    NoneType: "null",
    tuple[str, str]: "two days like [2011-01-01, 2018-12-31]",
    tuple[float, ...]: "numbers like [15, 25, 40]",
    list[str]: "a list like [a.csv, b.csv]",
    list[int]: "a list like [64, 64]",
    list[float]: "a list like [0, 0.5, 1]",
    "user_path": "a path",
    "schedule": "a number like 0.0003, or lin_0.0003 for one that falls to 0",
    "seeds": "seeds like 0-4 or 0,3,7",
}
FILE_ENDINGS = ("json", "yaml", "yml", "csv", "parquet", "zip")  # these end files, and no keys
COMMAND_LINE_ONLY = {"run.import": "--run.import=PACKAGE stands on the command line only, as importing runs code"}

# What jsonargparse writes: a value of a wrong form, the value, a choice that is none, and a key that is none.
WRONG_VALUE = re.compile(r'Parser key "([\w.]+)"(?: element \d+)?: .*Expected|argument --([\w.]+): invalid')
GIVEN_VALUE = re.compile(r"(?:Given value:|Got value:|invalid \w+ value:) (.*)$")
WRONG_CHOICE = re.compile(r"invalid choice: '(\w+)'")
WRONG_KEY = re.compile(r"does not accept option '([\w.]+)'")
WRONG_FLAGS = "unrecognized arguments"
DOTTED_NAME = re.compile(r"\b[a-z]\w*(?:\.\w+)+")  # of Python's classes, as in Study.resume, none


def explained(message: str, keys: dict[str, Any]) -> str:
    """
    :param message: of jsonargparse
    :param keys: type of every key
    :return: one sentence in the words of a user, with the nearest key, or the form that is wanted
    """
    message = " ".join(message.split())

    # A value of a wrong form needs no name, but the form.
    refused = WRONG_VALUE.search(message)
    key = "" if refused is None else refused[1] or refused[2]
    if keys.get(key) is not None:
        given = GIVEN_VALUE.search(message)
        ending = "" if given is None else f", got {given[1]}"
        return f"{key} wants {form_of(keys[key])}{ending}"

    foreign = WRONG_KEY.search(message)
    if foreign is not None:
        message = f"there is no key {foreign[1]}"
        names = [foreign[1]]
    else:
        names = _names_in(message)
    for name in names:
        if name in COMMAND_LINE_ONLY:
            return f"{message}: {COMMAND_LINE_ONLY[name]}"

    meant = {match for name in names if name not in keys for match in nearest(name, set(keys))}
    if not meant:
        return message
    return f"{message.rstrip('.')}. Did you mean {' or '.join(sorted(meant))}?"


def _names_in(message: str) -> list[str]:
    """Names in a message that may be mistyped keys, commands or flags."""
    dotted = DOTTED_NAME.findall(message)
    names = [name for name in dotted if name.rpartition(".")[2] not in FILE_ENDINGS]
    names += WRONG_CHOICE.findall(message)
    if message.startswith(WRONG_FLAGS):
        names += re.findall(r"--([\w.-]+)", message)
    return names


def nearest(word: str, keys: set[str]) -> list[str]:
    """
    :param word: a name that is no key
    :param keys: all there are
    :return: the key that is meant, if any: one that ends alike, one whose initials the word gives, one like it in its
        section, one like it anywhere
    """
    section, _, last = word.replace("-", "_").rpartition(".")

    # Where names end alike, the shortest is meant: the command train, not the key market.train.
    shortest_last = sorted(keys, key=lambda name: (-len(name), name))
    by_last_part = {name.rpartition(".")[2]: name for name in shortest_last}

    # lr is learning_rate.
    if last not in by_last_part:
        initials = {"".join(part[0] for part in name.split("_")): name for name in by_last_part if name.count("_")}
        last = initials.get(last, last)

    siblings = {name.rpartition(".")[2]: name for name in keys if section and name.startswith(section + ".")}
    for names, cutoff in ((by_last_part, 1.0), (siblings, 0.6), (by_last_part, 0.75)):
        matches = difflib.get_close_matches(last, names, n=1, cutoff=cutoff)
        if matches:
            return [names[matches[0]]]
    return []


def form_of(hint: Any) -> str:
    """
    :param hint: type of a value
    :return: how it is written, with an example
    """
    if hint in FORMS:
        return FORMS[hint]
    if get_origin(hint) is Literal:
        return " or ".join(str(value) for value in get_args(hint))

    parts = get_args(hint)
    if not parts:
        name = getattr(hint, "__name__", str(hint))
        return FORMS.get(name, name)
    if get_origin(hint) in (list, tuple):
        return f"a list, each {form_of(parts[0])}"
    if get_origin(hint) is dict:
        return "keys and their values"
    return ", or ".join(form_of(part) for part in parts)
