"""Configuration files that a command line names, before anything is parsed."""

import pytest
from builders import refused

from market_regimes.commands.arguments import files_first, wants_defaults, without_flag


def test_the_home_of_the_user_is_found_in_the_place_of_a_configuration(files, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(files))
    (files / "c.yaml").write_text("market: {data: nowhere.csv}")

    for flags in (["--config", "~/c.yaml"], ["--config=~/c.yaml"]):
        assert "there is no file nowhere.csv" in refused(capsys, "train", *flags)

    assert "nothing.yaml" in refused(capsys, "train", "--config=~/nothing.yaml")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--a=1", "--config", "x.yaml", "--b"], ["--config", "x.yaml", "--a=1", "--b"]),
        (["--a", "--config=x", "--config", "y"], ["--config=x", "--config", "y", "--a"]),
        (["--config", "--config", "x"], ["--config", "--config", "x"]),
        ([], []),
    ],
)
def test_files_come_first_in_their_order(arguments, expected):
    assert files_first(arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run.import", "a", "--x=1", "--run.import=b"], ["--x=1"]),
        (["--x", "a", "--run.imports=c"], ["--x", "a", "--run.imports=c"]),
        (["--run.import"], []),
    ],
)
def test_a_flag_is_taken_away_with_its_values(arguments, expected):
    assert without_flag("--run.import", arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], True),
        (["--defaults=none"], False),
        (["--defaults", "shipped"], True),
        (["--resume", "runs/x"], False),
        (["--resume=runs/x"], False),
    ],
)
def test_the_shipped_configuration_lies_below_what_is_new_and_asks_for_it(arguments, wanted):
    assert wants_defaults(arguments) is wanted


def test_a_file_may_leave_the_shipped_configuration_out(tmp_path):
    (tmp_path / "my.yaml").write_text("defaults: none\n")

    assert not wants_defaults(["--config", str(tmp_path / "my.yaml")])
