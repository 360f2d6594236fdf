"""A parser's errors name what it reads, and its state is its own."""

from dataclasses import dataclass

import pytest

from market_regimes.commands.parser import Parser, Reading


@dataclass
class Inner:
    """
    :param depth: how deep
    """

    depth: int = 3


@dataclass
class Outer:
    """
    :param name: a name
    :param inner: a section
    :param skipped: no flag
    """

    name: str | None = None
    inner: Inner = None
    skipped: float = 0.5


def error_of(parser, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parser.error(message)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_section_that_is_tried_is_named_by_all_parsers_of_a_command_and_by_no_other(capsys):
    reading = Reading(source="my.yaml")
    parser = Parser(reading=reading)
    subparser = Parser(reading=reading)
    other = Parser()

    with parser.trying("variants.fast"):
        assert error_of(subparser, "no", capsys) == "error: my.yaml, variants.fast: no\n"
        assert error_of(other, "no", capsys) == "error: no\n"

    assert error_of(subparser, "no", capsys) == "error: no\n"


def test_a_configuration_is_named_where_the_message_is_about_it(capsys):
    parser = Parser(reading=Reading(source="my.yaml"))

    assert error_of(parser, "parsing config failed", capsys) == "error: my.yaml: parsing config failed\n"
    assert error_of(parser, "failed", capsys) == "error: failed\n"


def test_the_section_is_forgotten_after_an_error_within(capsys):
    parser = Parser()

    with pytest.raises(SystemExit), parser.trying("space"):
        parser.error("no")

    assert capsys.readouterr().err == "error: space: no\n"
    assert error_of(parser, "no", capsys) == "error: no\n"


def test_types_are_those_of_flags_and_of_fields_of_sections():
    parser = Parser()

    parser.add_section(Outer, "outer", skip={"skipped"})
    parser.add_flag("--steps", int, 5, help="steps")
    parser.add_flag("--seed", int, help="seed")

    assert parser.types == {
        "help": None,
        "outer": None,
        "outer.name": str | None,
        "outer.inner": None,
        "outer.inner.depth": int,
        "steps": int,
        "seed": int,
    }
    assert parser.may_be_null == {"seed"}
    assert parser.parse_args([]).steps == 5


def test_a_key_that_is_none_of_this_parser_is_explained_by_the_keys_of_its_reading(capsys):
    parser = Parser(reading=Reading(keys=lambda: {"trials": int}))

    shown = error_of(parser, "unrecognized arguments: --trial=3", capsys)

    assert shown == "error: unrecognized arguments: --trial=3. Did you mean trials?\n"
