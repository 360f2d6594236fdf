"""What is stated is done or refused: flags and keys without effect, each named."""

import pytest
from builders import refused

from market_regimes.commands.overruled import notes_on_unused_keys, why_overruled
from train_model_multi_patch import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sanity", "--run.total_timesteps=500"], "sanity trains 6,144 steps: leave --run.total_timesteps away"),
        (["sanity", "--resume", "runs/x"], "is no run folder"),
        (["sanity", "--seeds=0-2"], "sanity trains one run: leave --seeds away"),
        (["--seeds=0-2", "--algorithm.seed=7"], "--seeds gives every run its seed: leave --algorithm.seed away"),
        (["train", "--algorithm.seed", "7", "--seeds", "0-2"], "--seeds gives every run its seed"),
        (["tune", "--algorithm.seed=7"], "--seeds gives every trial its seeds: leave --algorithm.seed away"),
        (["compare", "--algorithm.seed=7"], "--compare.seeds gives every cell its seed: leave --algorithm.seed away"),
        (["regimes", "--algorithm.seed=7"], "--compare.seeds gives every cell its seed"),
        (["compare", "--market.train=[2001-01-01, 2002-01-01]"], "give every fold its days: leave --market.train away"),
        (["regimes", "--market.test", "[2001-01-01, 2002-01-01]"], "leave --market.test away"),
        (["train", "--market.data=a.csv", "--market.data", "b.csv"], "--market.data stands 2 times"),
        (
            ["signal", "runs/x", "--data", "a.csv", "--data=b.csv"],
            "--data stands 2 times: give all its values together",
        ),
        (["signal", "runs/x", "--position", "A=1", "--position", "B=1"], "--position stands 2 times"),
        (["--resume=runs/x", "--run.name=y"], "--resume goes on in its own folder: leave --run.name away"),
        (["tune", "--resume=runs/x", "--run.out=y"], "--resume goes on in its own folder: leave --run.out away"),
        (
            ["train", "--market.data=synthetic", "--market.volatility_index=estimated"],
            "market.volatility_index=estimated: the index of synthetic is part of its law",
        ),
    ],
)
def test_flags_that_would_do_nothing_are_refused(arguments, sentence, capsys):
    assert sentence in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("command", "content", "flags", "expected"),
    [
        ("train", "seeds: 0-1\nalgorithm: {seed: 7}", [], "--seeds gives every run its seed"),
        ("train", "algorithm: {seed: 7}", ["--seeds=0-1"], "--seeds gives every run its seed"),
        ("train", "algorithm.seed: 7", ["--seeds", "0-1"], "--seeds gives every run its seed"),
        ("tune", "algorithm: {seed: 7}", [], "--seeds gives every trial its seeds"),
        ("compare", "algorithm: {seed: 7}", [], "--compare.seeds gives every cell its seed"),
        ("regimes", "algorithm: {seed: 7}", [], "--compare.seeds gives every cell its seed"),
        ("train", "algorithm: {seed: 7}", [], None),
        ("train", "seeds: 0-1\nalgorithm: {seed: null}", [], None),
        ("train", "seeds: null\nalgorithm: {seed: 7}", [], None),
    ],
)
def test_keys_of_a_file_that_would_do_nothing_are_named(tmp_path, command, content, flags, expected):
    """A file may serve several commands, and flags lie over it: it is no refusal."""
    path = tmp_path / "c.yaml"
    path.write_text(content)
    notes = notes_on_unused_keys(command, ["--config", str(path), *flags])

    assert notes == ([] if expected is None else [f"algorithm.seed=7 of {path} is not used: {expected}"])


def test_a_flag_that_a_key_of_a_file_overrules_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("seeds: 0-1")
    sentence = "--seeds gives every run its seed: leave --algorithm.seed away"

    assert why_overruled("train", [f"--config={path}", "--algorithm.seed=7"]) == sentence

    path.write_text("seeds: null")

    assert why_overruled("train", [f"--config={path}", "--algorithm.seed=7"]) is None


def test_a_command_names_the_keys_of_its_file_that_it_does_not_use(files, capsys):
    """The run is refused afterwards for want of a file."""
    (files / "c.yaml").write_text("run: {total_timesteps: 500}\nmarket: {data: nowhere.csv}")

    with pytest.raises(SystemExit):
        main(["sanity", "--config", str(files / "c.yaml")])

    shown = capsys.readouterr().err

    assert f"run.total_timesteps=500 of {files / 'c.yaml'} is not used: sanity trains 6,144 steps" in shown
