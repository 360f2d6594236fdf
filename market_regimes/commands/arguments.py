"""Flags of the command line from constructors and configurations, and its errors in one sentence."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Literal, NoReturn, get_args, get_origin, get_type_hints

import jsonargparse
import yaml
from docstring_parser import parse as parse_docstring
from stable_baselines3.common.vec_env import VecEnv

from market_regimes.files import check_keys

FORMS: dict[Any, str] = {  # of types, and of functions by their names
    bool: "true or false",
    int: "a whole number like 64",
    float: "a number like 0.5",
    str: "text",
    Path: "a path",
    NoneType: "null",
    tuple[str, str]: "two days like [2011-01-01, 2018-12-31]",
    tuple[float, float, float]: "three numbers like [15, 25, 40]",
    list[str]: "a list like [a.csv, b.csv]",
    list[int]: "a list like [64, 64]",
    list[float]: "a list like [0, 0.5, 1]",
    "user_path": "a path",
    "schedule": "a number like 0.0003, or lin_0.0003 for one that falls to 0",
    "seeds": "seeds like 0-4 or 0,3,7",
}
FILES = ("json", "yaml", "yml", "csv", "parquet", "zip")  # endings of files, which are no keys
LISTS = {  # flags that take several values at once
    "--data": "--data a.csv b.csv",
    "--position": "--position AAPL=0.5 JPM=0.2",
    "--market.data": "--market.data='[a.csv, b.csv]'",
}
CONFIG_ONLY_FLAG = {"run.import": "--run.import=PACKAGE stands on the command line only, as importing runs code"}


class Parser(jsonargparse.ArgumentParser):  # type: ignore[misc]  # it comes without types
    """jsonargparse's parser; its errors are one sentence, with the form that is wanted or the nearest valid name."""

    source: ClassVar[str] = ""  # the configuration being read
    section: ClassVar[str] = ""  # part of it whose values are tried, like a variant
    known: ClassVar[Callable[[], dict[str, Any]]] = dict  # gives the type of every key that may be meant

    def parse_path(self, path: str, *args: Any, **kwargs: Any) -> jsonargparse.Namespace:
        """Parse a file, which is UTF-8 whatever the locale (jsonargparse reads it as the locale has it)."""
        text = Path(path).expanduser().read_text("utf-8-sig")
        try:
            check_sections(text, str(path))
        except ValueError as error:
            self.error(str(error))
        return self.parse_string(text, Path(path).name, *args, **kwargs)

    @classmethod
    @contextmanager
    def trying(cls, section: str) -> Iterator[None]:
        """Within it, errors name the part of the configuration whose values are tried."""
        cls.section = section
        try:
            yield
        finally:
            cls.section = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print why, and what may have been meant, and exit with 2."""
        about_source = any(words in message for words in ("parsing config", "Unexpected config", "not accept option"))
        about_source |= bool(self.section)
        source = ", ".join(part for part in (self.source, self.section) if part)
        prefix = f"{source}: " if source and about_source else ""
        print(f"error: {prefix}{explained(message, Parser.known())}", file=sys.stderr)
        sys.exit(2)


def explained(message: str, known: dict[str, Any]) -> str:
    """
    :param message: of jsonargparse
    :param known: type of every key
    :return: one sentence in the words of a user, with the nearest key, or the form that is wanted
    """
    message = " ".join(message.split())
    refused = re.search(r'Parser key "([\w.]+)": .*Expected', message) or re.search(
        r"argument --([\w.]+): invalid", message
    )
    if refused is not None and known.get(refused[1]) is not None:
        given = re.search(r"(?:Given value:|Got value:|invalid \w+ value:) (.*)$", message)
        return f"{refused[1]} wants {form_of(known[refused[1]])}" + (f", got {given[1]}" if given else "")
    # Names of Python's classes, as in Study.resume, are no keys.
    words = [word for word in re.findall(r"\b[a-z]\w*(?:\.\w+)+", message) if word.rpartition(".")[2] not in FILES]
    words += re.findall(r"invalid choice: '(\w+)'", message)
    foreign = re.search(r"does not accept option '([\w.]+)'", message)
    if foreign is not None:
        message, words = f"there is no key {foreign[1]}", [foreign[1]]
    words += re.findall(r"--([\w.-]+)", message) if message.startswith("unrecognized arguments") else []
    for word in words:
        if word in CONFIG_ONLY_FLAG:
            return f"{message}: {CONFIG_ONLY_FLAG[word]}"
    near = {match for word in words if word not in known for match in nearest(word, set(known))}
    return f"{message.rstrip('.')}. Did you mean {' or '.join(sorted(near))}?" if near else message


def nearest(word: str, known: set[str]) -> list[str]:
    """
    The known name that is meant, if any: one that ends alike, one whose initials it gives, one like it in its section,
    one like it anywhere.
    """
    section, _, last = word.replace("-", "_").rpartition(".")
    # Where names end alike, the shortest is meant: the command train, not the key market.train.
    by_last_part = {name.rpartition(".")[2]: name for name in sorted(known, key=lambda name: (-len(name), name))}
    initials = {"".join(part[0] for part in last.split("_")): last for last in by_last_part if last.count("_")}
    if last not in by_last_part:
        last = initials.get(last, last)  # lr
    siblings = {name.rpartition(".")[2]: name for name in known if section and name.startswith(section + ".")}
    for names, cutoff in ((by_last_part, 1.0), (siblings, 0.6), (by_last_part, 0.75)):
        for match in difflib.get_close_matches(last, names, n=1, cutoff=cutoff):
            return [names[match]]
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
    if parts := get_args(hint):
        if get_origin(hint) in (list, tuple):
            return f"a list, each {form_of(parts[0])}"
        if get_origin(hint) is dict:
            return "keys and their values"
        return ", or ".join(form_of(part) for part in parts)
    name = getattr(hint, "__name__", str(hint))
    return FORMS.get(name, name)


def types_of(parser: Parser) -> dict[str, Any]:
    """Every key of a parser with its type."""
    return {a.dest: getattr(a, "_typehint", None) or getattr(a, "type", None) for a in parser._actions}


def add_constructor(
    parser: Parser, prefix: str, constructor: Any, docstring: str, skip: set[str], types: dict[str, Any]
) -> None:
    """
    One flag per parameter of a constructor, typed and described by its signature and docstring.

    :param parser: receives the flags
    :param prefix: of their names
    :param constructor: function whose parameters they are
    :param docstring: describes them
    :param skip: parameters that get no flag
    :param types: of parameters that are written in another form than they are passed
    """
    helps = {param.arg_name: " ".join((param.description or "").split()) for param in parse_docstring(docstring).params}
    # SB3's type of an environment names VecEnv, which its module imports for type checkers only.
    hints = {**get_type_hints(constructor, localns={"VecEnv": VecEnv}), **types}
    for name, parameter in inspect.signature(constructor).parameters.items():
        if name in skip or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "MlpPolicy" if parameter.default is parameter.empty else parameter.default
        default = getattr(default, "__name__", default)
        parser.add_argument(f"--{prefix}.{name}", type=hints[name], default=default, help=helps.get(name, ""))


def values_of(flag: str, arguments: list[str]) -> list[str]:
    """What follows every occurrence of a flag, as ``--flag value`` or ``--flag=value``."""
    given = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{flag}=")]
    return given + [value for name, value in pairwise(arguments) if name == flag]


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
    given = [argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument]
    given += [[name, value] for name, value in pairwise(arguments) if name.startswith("--") and "=" not in name]
    for name, value in given:
        if value.lstrip().startswith(("{", "[")):
            check_keys(value, name)
        elif _is_section(value):
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
        return  # the parser says so
    for value in content.values() if isinstance(content, dict) else ():
        if _is_section(value):
            check_keys(Path(value).read_text("utf-8-sig"), value)


def _is_section(value: Any) -> bool:
    """Whether a value names a file that jsonargparse would read a section from."""
    return isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()


@dataclass(frozen=True)
class Overruled:
    """
    A flag that a command would not heed, since it decides the value itself.

    :param flag: that would do nothing
    :param commands: which would not heed it
    :param beside: the flag that overrules it, None: the command does, always
    :param reason: of the refusal
    """

    flag: str
    commands: tuple[str, ...]
    beside: str | None
    reason: str


OVERRULED = (
    Overruled("--run.total_timesteps", ("sanity",), None, "sanity trains 6,144 steps"),
    Overruled("--algorithm.seed", ("train",), "--seeds", "--seeds gives every run its seed"),
    Overruled("--algorithm.seed", ("tune",), None, "--seeds gives every trial its seeds"),
    Overruled("--algorithm.seed", ("compare", "regimes"), None, "--compare.seeds gives every cell its seed"),
    *(
        Overruled(flag, ("compare", "regimes"), None, "--compare.first_test and its kin give every fold its days")
        for flag in ("--market.train", "--market.validation", "--market.test")
    ),
    *(
        Overruled(flag, ("train", "tune", "compare", "regimes"), "--resume", "--resume goes on in its own folder")
        for flag in ("--run.name", "--run.out")
    ),
)


def why_overruled(command: str, arguments: list[str]) -> str | None:
    """
    :param command: that is called
    :param arguments: of it
    :return: why one of the flags would do nothing, None: all are heeded
    """
    contents = _contents_of_files(arguments).values()
    for rule in OVERRULED:
        if _applies(rule, command, arguments, contents) and values_of(rule.flag, arguments):
            return f"{rule.reason}: leave {rule.flag} away"
    return None


def notes_on_unused_keys(command: str, arguments: list[str]) -> list[str]:
    """
    :param command: that is called
    :param arguments: of it
    :return: a sentence on each key of a configuration file that the command would not heed. It is no refusal, since a
        file may serve several commands
    """
    files = _contents_of_files(arguments)
    return [
        f"{rule.flag[2:]}={content[rule.flag[2:]]} of {name} is not used: {rule.reason}"
        for rule in OVERRULED
        if _applies(rule, command, arguments, files.values())
        for name, content in files.items()
        if content.get(rule.flag[2:]) is not None
    ]


def _applies(rule: Overruled, command: str, arguments: list[str], contents: Iterable[dict[str, Any]]) -> bool:
    """Whether a command decides the value itself, by what its flags and files give."""
    if command not in rule.commands:
        return False
    if rule.beside is None or values_of(rule.beside, arguments):
        return True
    return any(content.get(rule.beside[2:]) is not None for content in contents)


def _contents_of_files(arguments: list[str]) -> dict[str, dict[str, Any]]:
    """The keys of every configuration file, market.data for the key data of the section market; {} of what is none."""
    contents = {}
    for name in values_of("--config", arguments):
        try:
            content = yaml.safe_load(Path(name).expanduser().read_text("utf-8-sig"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue  # the parser says so
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
    """The configuration files, in their order, before all flags: a flag overrules a file wherever it stands."""
    files, rest, takes_next = list[str](), list[str](), False
    for argument in arguments:
        is_file = takes_next or argument == "--config" or argument.startswith("--config=")
        takes_next = argument == "--config" and not takes_next
        (files if is_file else rest).append(argument)
    return files + rest


def wants_defaults(arguments: list[str]) -> bool:
    """
    :param arguments: of a command
    :return: whether its shipped configuration lies below the files: none of them, and no flag, says ``defaults: none``
    """
    if "none" in values_of("--defaults", arguments):
        return False
    return all(content.get("defaults") != "none" for content in _contents_of_files(arguments).values())


def run_with(parser: Parser, config: jsonargparse.Namespace, values: dict[str, Any]) -> jsonargparse.Namespace:
    """
    :param parser: of ``train``, which checks the values
    :param config: of a comparison or a search
    :param values: by section
    :return: the configuration of one run: the values over the sections of that configuration
    """
    base = jsonargparse.Namespace({key: config[key].clone() for key in ("run", "market", "algorithm")})
    return parser.parse_object(values, namespace=base)
