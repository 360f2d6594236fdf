"""The parser of a command: flags from dataclasses and constructors, and errors that name what they are about."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import jsonargparse

from market_regimes.commands.arguments import check_sections
from market_regimes.commands.explanations import explained

# With these words jsonargparse refuses what a configuration holds.
ABOUT_CONFIGURATION = ("parsing config", "Unexpected config", "not accept option")


@dataclass
class Reading:
    """
    What the errors of a command name. All parsers of one command share it.

    :param keys: gives the type of every key that may be meant
    :param source: the configuration files that are read
    :param section: the part of the configuration whose values are tried, like a variant
    """

    keys: Callable[[], dict[str, Any]] = dict
    source: str = ""
    section: str = ""


class Parser(jsonargparse.ArgumentParser):  # type: ignore[misc]  # it comes without types
    """
    jsonargparse's parser; its errors are one sentence.

    :param reading: what errors name
    :ivar types: type of every key, None of sections
    :ivar may_be_null: keys whose default is null whatever their type says
    """

    def __init__(
        self,
        *args: Any,
        reading: Reading | None = None,
        **kwargs: Any,
    ):
        self.reading = Reading() if reading is None else reading
        self.types: dict[str, Any] = {"help": None}
        self.may_be_null: set[str] = set()
        super().__init__(*args, **kwargs)

    def add_flag(
        self,
        flag: str,
        type: Any = None,
        default: Any = None,
        **kwargs: Any,
    ) -> None:
        """
        :param flag: as the user writes it, or the name of a positional argument
        :param type: of its value
        :param default: of its value
        :param kwargs: of ``add_argument``
        """
        # Positional arguments and actions have no default.
        if type is not None:
            kwargs["type"] = type
        if flag.startswith("--") and "action" not in kwargs:
            kwargs["default"] = default

        self.add_argument(flag, **kwargs)
        self._note(flag.removeprefix("--"), type, default)

    def add_section(
        self,
        section: Any,
        prefix: str = "",
        skip: set[str] | None = None,
    ) -> None:
        """
        :param section: dataclass whose fields get a flag each
        :param prefix: of their names
        :param skip: fields that get none
        """
        skip = set() if skip is None else skip
        self.add_class_arguments(section, prefix or None, skip=skip)

        # jsonargparse reads the types, and keeps them to itself.
        if prefix:
            self.types[prefix] = None
        self._note_fields(section, f"{prefix}." if prefix else "", skip)

    def _note_fields(
        self,
        section: Any,
        prefix: str,
        skip: set[str],
    ) -> None:
        for name, hint in get_type_hints(section).items():
            if is_dataclass(hint):
                self.types[prefix + name] = None
                self._note_fields(hint, f"{prefix}{name}.", skip)
            elif name not in skip:
                self.types[prefix + name] = hint

    def _note(
        self,
        key: str,
        hint: Any,
        default: Any,
    ) -> None:
        self.types[key] = hint
        if default is None:
            self.may_be_null.add(key)

    def parse_path(
        self,
        path: str,
        *args: Any,
        **kwargs: Any,
    ) -> jsonargparse.Namespace:
        """Parse a file, which is UTF-8 whatever the locale (jsonargparse reads it as the locale has it)."""
        text = Path(path).expanduser().read_text("utf-8-sig")
        try:
            check_sections(text, str(path))
        except ValueError as error:
            self.error(str(error))
        return self.parse_string(text, Path(path).name, *args, **kwargs)

    @contextmanager
    def trying(self, section: str) -> Iterator[None]:
        """
        Within it, errors name the part of the configuration whose values are tried.

        :param section: like variants.NAME
        """
        self.reading.section = section
        try:
            yield
        finally:
            self.reading.section = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """
        Print why, and what may have been meant, and exit with 2.

        :param message: of jsonargparse, or a sentence
        :param ex: unused, of jsonargparse's signature
        """
        prefix = ""
        places = [place for place in (self.reading.source, self.reading.section) if place]
        about_configuration = any(words in message for words in ABOUT_CONFIGURATION)
        if places and (self.reading.section or about_configuration):
            prefix = f"{', '.join(places)}: "

        print(f"error: {prefix}{explained(message, self.reading.keys())}", file=sys.stderr)
        sys.exit(2)
