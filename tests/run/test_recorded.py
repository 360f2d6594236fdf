"""
What is stated is done or refused, and what is done is recorded. Oracle: the configuration and the provenance that a run
leaves, read by PyYAML and the standard library's json.
"""

import json
import shutil

import pytest
import yaml

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.commands.arguments import notes_on_unused_keys, why_overruled
from market_regimes.market.segments import read_data
from market_regimes.run.folder import read_configuration
from train_model_multi_patch import main

QUICK = ["--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"]
QUICK += ["--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"]
SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.fixture
def files(tmp_path, make_prices):
    """a.csv has opening prices, b.csv has closes only."""
    make_prices(400).to_csv(tmp_path / "a.csv", index=False)
    make_prices(400, seed=1).drop(columns="open").to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


def refused(capsys, *arguments):
    """The one sentence of a refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def recorded(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    fills = {name: entry["fill"] for name, entry in json.loads((folder / "run.json").read_text())["data"].items()}
    return config["market"]["trading"]["fill"], fills


@pytest.mark.parametrize(
    ("names", "stated", "fill", "fills"),
    [
        ("a", None, "next_open", {"a": "next_open"}),
        ("a", "close", "close", {"a": "close"}),
        ("a", "next_open", "next_open", {"a": "next_open"}),
        ("b", None, "close", {"b": "close"}),
        ("b", "close", "close", {"b": "close"}),
        ("ab", None, None, {"a": "next_open", "b": "close"}),  # each as its file allows
    ],
)
@pytest.mark.parametrize("python", [False, True])
def test_the_fill_that_was_done_is_recorded(files, names, stated, fill, fills, python):
    entries = [str(files / f"{name}.csv") for name in names]
    if python:
        run = RunConfig(total_timesteps=32, n_envs=2, out=str(files), name="run", progress_bar=False)
        Study(run, MarketConfig(entries, trading=TradingCosts(fill=stated)), SMALL).start()
    else:
        flags = [] if stated is None else [f"--market.trading.fill={stated}"]
        main([*QUICK, *flags, f"--market.data=[{','.join(entries)}]", f"--run.out={files}", "--run.name=run"])
    assert recorded(files / "run") == (fill, fills)


@pytest.mark.parametrize("names", ["b", "ab"])
def test_a_fill_at_the_open_that_is_stated_is_refused_on_closes(files, names, capsys):
    """From the command line, from a file, of every command that reads data, and from Python."""
    entries = [str(files / f"{name}.csv") for name in names]
    (files / "mine.yaml").write_text("market: {trading: {fill: next_open}}\n")
    data = f"--market.data=[{','.join(entries)}]"
    expected = f"market.trading.fill=next_open: {files / 'b.csv'} has no opening prices of b"
    for arguments in (
        ["train", data, "--market.trading.fill=next_open"],
        ["train", data, f"--config={files / 'mine.yaml'}"],
        ["sanity", data, "--market.trading.fill=next_open"],
        ["data", *entries, "--market.trading.fill=next_open"],
        ["compare", data, "--market.trading.fill=next_open", "--compare.first_test=2001-03-01"],
    ):
        assert expected in refused(capsys, *arguments)
    with pytest.raises(ValueError, match="no opening prices of b"):
        Study(RunConfig(), MarketConfig(entries, trading=TradingCosts(fill="next_open")), SMALL)


def test_a_run_of_closes_that_recorded_the_open_goes_on_as_it_was(files, capsys):
    """Earlier versions wrote the default into config.yaml, and filled at the close."""
    main([*QUICK, f"--market.data={files / 'b.csv'}", f"--run.out={files}", "--run.name=run"])
    before = (files / "run" / "positions-test.csv").read_bytes()
    config = yaml.safe_load((files / "run" / "config.yaml").read_text())
    config["market"]["trading"]["fill"] = "next_open"
    (files / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    main(["evaluate", str(files / "run")])
    assert (files / "run" / "positions-test.csv").read_bytes() == before
    (signal,) = Agent.load(files / "run").signal(files / "b.csv")
    assert signal.fill == "close"
    assert "may become longer" not in refused(capsys, "--resume", files / "run", "--market.trading.fill=close")
    main(["--resume", str(files / "run"), "--run.total_timesteps=128"])
    assert recorded(files / "run")[0] == "close"


def test_bars_that_cannot_be_filled_as_the_run_fills_say_so(files, capsys):
    main([*QUICK, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    sentence = (
        f"{files / 'b.csv'} has no opening prices: its orders fill at the close, and those of the run at the next open"
    )
    capsys.readouterr()
    main(["evaluate", str(files / "run"), "--data", str(files / "b.csv")])
    assert sentence in capsys.readouterr().out.splitlines()
    (signal,) = Agent.load(files / "run").signal(files / "b.csv")
    assert signal.fill == "close"
    assert sentence in signal.warnings


def test_a_run_from_python_records_periods_and_places_too(files, monkeypatch):
    """270 of 448 days are 60 %: the run evaluates on its own days when the file has grown."""
    monkeypatch.chdir(files)
    run = RunConfig(total_timesteps=32, n_envs=2, name="run", progress_bar=False)
    folder = Study(run, MarketConfig("a.csv"), SMALL).start().resolve()
    config = read_configuration(folder).market
    assert config.data == str(files / "a.csv")
    expected = read_data(MarketConfig(str(files / "a.csv"))).config
    assert (config.train, config.test) == (expected.train, expected.test)
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    main(["evaluate", str(folder)])
    assert (folder / "evaluation-test.json").exists()


def test_a_training_period_shorter_than_an_episode_is_said(files, capsys):
    """240 of 400 bars train; 20 returns come before the first decision, so an episode has 219."""
    main([*QUICK, "--market.episode_bars=500", f"--market.data={files / 'a.csv'}", f"--run.out={files}"])
    said = capsys.readouterr().out
    bars = json.loads((next(files.glob("market-*")) / "run.json").read_text())["data"]["a"]["bars"]
    assert bars == 400
    assert "a: episodes of 219 bars, all of training, not market.episode_bars=500\n" in said


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


def test_the_home_of_the_user_is_found_in_the_place_of_a_configuration(files, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(files))
    (files / "c.yaml").write_text("market: {data: nowhere.csv}")
    for flags in (["--config", "~/c.yaml"], ["--config=~/c.yaml"]):
        assert "there is no file nowhere.csv" in refused(capsys, "train", *flags)
    assert "nothing.yaml" in refused(capsys, "train", "--config=~/nothing.yaml")


def test_the_name_of_a_file_is_no_key_that_was_mistyped(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    shown = refused(capsys, "signal", tmp_path)
    assert "has no run.json" in shown
    assert "Did you mean" not in shown


def test_the_place_of_the_runs_own_data_is_heeded_with_dates_too(files, capsys):
    main([*QUICK, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    shutil.move(files / "a.csv", files / "moved.csv")
    flag = f"--market.data={files / 'moved.csv'}"
    main(["evaluate", str(files / "run"), flag, "--from", "2001-03-01"])
    assert list((files / "run").glob("evaluation-2001-03-01-to-*.json"))
    other = ["--data", str(files / "b.csv")]
    assert "give one of them" in refused(capsys, "evaluate", files / "run", flag, *other)


@pytest.mark.parametrize("which", ["first", "Best", "", None])
def test_a_checkpoint_is_the_best_or_the_last(files, which):
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(files), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(str(files / "a.csv")), SMALL).start()
    with pytest.raises(ValueError, match="a checkpoint is best or last, got"):
        Agent.load(folder, which)


def test_a_folder_that_exists_is_refused_in_the_words_of_the_caller(files, capsys):
    """Python has no flags, and the command line no methods."""
    (files / "run").mkdir()
    sentence = f"the run folder {files / 'run'} exists already: choose another run.name, or "
    flags = [f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"]
    assert f"{sentence}--resume {files / 'run'}\n" in refused(capsys, "train", *QUICK, *flags)
    run = RunConfig(total_timesteps=32, n_envs=2, name="run", out=str(files), progress_bar=False)
    with pytest.raises(ValueError, match=r"run\.name, or go on in it by Study\.resume$"):
        Study(run, MarketConfig(str(files / "a.csv")), SMALL).start()
