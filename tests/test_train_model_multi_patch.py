"""The command line as a user meets it: each test runs ``main`` on a command and looks at what it leaves."""

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from builders import cells_here, drawing, refused
from filelock import FileLock
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

import distributional_ppo
import train_model_multi_patch
from market_regimes.commands import parsers, train
from market_regimes.compare.comparison import Comparison
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.run.checkpoint import newest_first, read
from market_regimes.run.study import Study
from train_model_multi_patch import main

ROOT = Path(__file__).parent.parent


FEW = ["--run.total_timesteps=1024", "--run.n_envs=4", "--algorithm.n_steps=64", "--run.eval_every=512"]


FEW += ["--run.progress_bar=false", "--algorithm.n_epochs=2", "--algorithm.batch_size=64"]


QUICK = [*FEW, "--market.validation=[2010-07-01,2010-12-31]", "--market.test=[2012-01-01,2012-06-30]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with drawing():
        main([*QUICK, f"--run.out={out}", "--run.name=first"])
    return out / "first"


def test_run_folder_holds_everything(folder):
    names = {path.name.split(".")[0] for path in folder.iterdir()}

    assert {"config", "run", "best", "checkpoints", "events", "progress", "model", "training"} <= names
    assert {f"{name}-test" for name in ("evaluation", "trades", "tearsheet", "equity", "returns")} <= names

    provenance = json.loads((folder / "run.json").read_text())

    assert provenance["seed"] == 0
    assert list(provenance["data"]["S&P 500"]["months"])[::161] == ["1999-01", "2012-06"]  # of 13.5 years
    assert provenance["torch"].startswith("2.")
    assert (folder / "equity-test.png").read_bytes().startswith(b"\x89PNG")


def test_resolved_config_is_complete_and_shows_the_plan(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    algorithm = config["algorithm"]

    assert algorithm["use_variance_gradient_scaling"] is True
    assert (algorithm["variance_scaling_clip_min"], algorithm["variance_scaling_clip_max"]) == (0.1, 10.0)
    assert (algorithm["vf_coef"], algorithm["normalize_returns"]) == (1.8, True)
    assert algorithm["policy_kwargs"]["n_quantiles"] == 32
    assert config["run"]["total_timesteps"] == 1024  # the flag overrules the file
    assert config["market"]["trading"]["fee_bp"] == 1.0  # the default, where neither says anything


def test_events_and_csv_hold_finite_scalars(folder, read_scalars):
    scalars = {tag: [point.value for point in points] for tag, points in read_scalars(folder).items()}

    assert {"train/variance_scaling_weight", "eval/mean_reward", "eval/sharpe_ratio", "eval/max_drawdown"} <= set(
        scalars
    )
    assert {"rollout/ep_rew_mean", "time/fps"} & set(scalars)
    assert all(np.isfinite(values).all() for values in scalars.values())
    assert len(pd.read_csv(folder / "progress.csv")["train/variance_scaling_weight"].dropna()) == 4


def test_evaluate_repeats_the_figures_of_training(folder, capsys):
    before = json.loads((folder / "evaluation-test.json").read_text())

    assert before["step"] == json.loads((folder / "best.json").read_text())["step"]

    main(["evaluate", str(folder)])

    assert json.loads((folder / "evaluation-test.json").read_text()) == before

    printed = capsys.readouterr().out

    assert "sharpe_ratio" in printed
    assert "Too short to tell: 0.50 years of bars" in printed  # half of 2012
    assert "n/a" in printed  # no crash in the test period
    assert before["joint"]["buy and hold"]["total_return"] == pytest.approx(1362.16 / 1258.86 - 1, abs=0.01)


def test_evaluate_takes_a_period(folder):
    main(["evaluate", str(folder), "--period", "validation"])

    assert json.loads((folder / "evaluation-validation.json").read_text())["joint"]["agent"]["bars"] == 128
    assert (folder / "equity-validation.png").exists()


def test_evaluate_takes_the_best_model_or_the_last(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    older = int(newest_first(copy)[1].name)
    (copy / "best.json").write_text(json.dumps({"step": older}))
    steps = {}

    for which in ((), ("--checkpoint=best",), ("--checkpoint=last",)):
        main(["evaluate", str(copy), *which])
        steps[which] = json.loads((copy / "evaluation-test.json").read_text())["step"]

    assert older < 1024
    assert steps == {(): older, ("--checkpoint=best",): older, ("--checkpoint=last",): 1024}


def test_same_command_same_run(folder, tmp_path):
    main(["train", "--config", str(folder / "config.yaml"), f"--run.out={tmp_path}"])
    again = json.loads((tmp_path / "first" / "evaluation-test.json").read_text())

    assert again == json.loads((folder / "evaluation-test.json").read_text())


def test_any_gymnasium_environment_trains(tmp_path, capsys):
    main([*QUICK, f"--run.out={tmp_path}", "--run.name=pole", "--run.env_id=CartPole-v1", "--algorithm.gamma=0.9"])
    result = json.loads((tmp_path / "pole" / "evaluation-test.json").read_text())

    assert result["joint"]["agent"]["mean_reward"] > 5
    assert "sharpe" not in capsys.readouterr().out
    assert "eval/sharpe_ratio" not in pd.read_csv(tmp_path / "pole" / "progress.csv").columns


def test_file_values_become_python_values():
    algorithm = dict(policy="MlpPolicy", seed=0, learning_rate="lin_0.001", clip_range=0.1, n_steps=32, batch_size=32)
    algorithm["policy_kwargs"] = dict(activation_fn="ReLU", optimizer_class="AdamW", n_quantiles=4)
    study = Study(RunConfig(env_id="CartPole-v1", n_envs=1), MarketConfig(), algorithm)

    assert isinstance(study.model.learning_rate, LinearSchedule)
    assert study.model.lr_schedule(0.5) == pytest.approx(0.0005)
    assert study.model.policy.activation_fn is nn.ReLU
    assert type(study.model.policy.optimizer).__name__ == "AdamW"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm: {use_variance_gradiant_scaling: true}", "use_variance_gradient_scaling"),
        ("algorithm: {policy_kwargs: {n_quantile: 3}}", "algorithm.policy_kwargs.n_quantiles"),
        ("market: {trading: {fee_bps: 3}}", "market.trading.fee_bp"),
        ("algorithm: {n_steps: many}", "algorithm.n_steps"),
        ("algorithm: {use_popart: 3}", "algorithm.use_popart"),
        ("algorithm: {learning_rate: fast}", "algorithm.learning_rate"),
        ("algorithm: {policy_kwargs: {activation_fn: os.system}}", "Tanh"),
        ("algorithm: {policy: os.system}", "MlpPolicy"),
        ("algorithm: {clip_range_vf: 0.2, normalize_returns: true, use_popart: false}", "use_popart"),
        ("algorithm: {value_target: td}", "sr_lambda"),
        ("algorithm: {clip_range_vf: far}", "clip_range_vf"),
        ("algorithm: {quantile_huber_kappa: -1.0}", "quantile_huber_kappa"),
        ("market: {train: [1999-01-01, 2012-12-31]}", "without overlap"),
        ("market: {test: [2030-01-01, 2031-12-31]}", "2018-12-31"),
        ("run: {n_envs: 0}", "n_envs"),
        ("run: {env_id: CartPool-v1}", "CartPole"),
        ("run: {env_id: 'os:CartPole-v1'}", "registered"),
        ("run: {env_id: CartPole-v1}\nalgorithm: {policy: MultiInputPolicy}", "error"),
        ("algorithm: {device: nowhere}", "device"),
        ("algorithm: {n_epochs: 0}", "n_epochs"),
        ("run: {n_envs: 2}\nalgorithm:", "algorithm"),
        ("algorithm:", "algorithm"),
        ("market: {test: ['2011', '2018']}", "ISO dates"),
        ("market: {data: nowhere.csv}", "no file nowhere.csv"),
        ("market: {data: []}", "names no data"),
        ("market: {data: nasdaq, volatility_index: real}", "no real index"),
        ("market: {volatility_index: reel}", "estimated"),
        ("market: {regime_bounds: [30, 20, 40]}", "increasing"),
        ("market: {bars_per_year: 0}", "bars_per_year"),
        ("market: {train: [1990-01-01, 2008-12-31]}", "not covered by sp500"),
        ("market: {trading: {positions: [1.0]}}", "two different"),
        ("run: {patience: 0}", "patience"),
        ("seeds: all", "0-4"),
        ("seeds: 0-5000", "at most 1000"),
        ("run: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_wrong_files_are_refused_with_the_nearest_name(capsys, tmp_path, text, expected):
    config = tmp_path / "config.yaml"
    config.write_text(text)

    assert expected in refused(capsys, "train", "--config", str(config), f"--run.out={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


def resolved(monkeypatch, *arguments):
    """The configuration that the command line comes to."""
    seen = []
    monkeypatch.setattr(train_model_multi_patch, "_run", lambda parser, config: seen.append(config))
    main(list(arguments))
    config = seen[0][seen[0].command].clone()
    config.pop("config")
    return config


def test_files_lie_over_the_shipped_configuration_and_flags_over_files_wherever_they_stand(tmp_path, monkeypatch):
    shipped = yaml.safe_load((ROOT / "configs" / "train.yaml").read_text())["algorithm"]

    assert (shipped["gamma"], shipped["vf_coef"], shipped["n_steps"]) == (0.95, 1.8, 256)

    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("algorithm: {gamma: 0.5, n_steps: 32}")
    two.write_text("algorithm: {gamma: 0.6}")
    files, flag = ["--config", str(one), f"--config={two}"], "--algorithm.n_steps=64"

    for arguments in ([*files, flag], [flag, *files], [*files[:2], flag, files[2]]):
        algorithm = resolved(monkeypatch, "train", *arguments).algorithm
        assert (algorithm.gamma, algorithm.vf_coef, algorithm.n_steps) == (0.6, 1.8, 64)

    # The other order of the files; and PPO's 0.5 where no shipped configuration is wanted.
    assert resolved(monkeypatch, "train", f"--config={two}", f"--config={one}").algorithm.gamma == 0.5

    two.write_text("defaults: none\nalgorithm: {gamma: 0.6}")

    for arguments in ([f"--config={two}"], [f"--config={one}", "--defaults=none"]):
        assert resolved(monkeypatch, "train", *arguments).algorithm.vf_coef == 0.5


@pytest.mark.parametrize("command", ["train", "sanity", "compare", "regimes"])
def test_a_key_in_a_file_is_the_same_as_its_flag(command, tmp_path, monkeypatch):
    config = tmp_path / "mine.yaml"
    config.write_text("market: {data: nasdaq}")

    assert resolved(monkeypatch, command, "--config", str(config)) == resolved(
        monkeypatch, command, "--market.data=nasdaq"
    )


def test_own_data_train_from_a_file_as_from_the_flag_and_may_grow_and_move(tmp_path, make_prices, capsys):
    """Without periods; the file is exported anew with 50 more bars, under another name."""
    table = make_prices(700)
    table[:600].to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "mine.yaml").write_text(f"market: {{data: {tmp_path / 'own.csv'}}}")

    for name, own in (
        ("file", f"--config={tmp_path / 'mine.yaml'}"),
        ("flag", f"--market.data={tmp_path / 'own.csv'}"),
    ):
        main(["train", own, *FEW, f"--run.out={tmp_path}", f"--run.name={name}"])

    figures = (tmp_path / "file" / "evaluation-test.json").read_text()

    assert (tmp_path / "flag" / "evaluation-test.json").read_text() == figures

    tensors = [(newest_first(tmp_path / name)[0] / "tensors.pt").read_bytes() for name in ("file", "flag")]

    assert tensors[0] == tensors[1]

    periods = yaml.safe_load((tmp_path / "flag" / "config.yaml").read_text())["market"]

    assert (periods["train"][0], periods["test"][1]) == ("2000-01-03", "2002-04-19")
    assert f"periods of 60, 15 and 25 % of the days: train {' to '.join(periods['train'])}" in capsys.readouterr().out

    (tmp_path / "own.csv").unlink()
    table[:650].to_csv(tmp_path / "moved.csv", index=False)
    moved = f"--market.data={tmp_path / 'moved.csv'}"
    main(["evaluate", str(tmp_path / "flag"), moved])
    again = json.loads((tmp_path / "flag" / "evaluation-test.json").read_text())

    assert again["joint"] == json.loads(figures)["joint"]

    main(["train", "--resume", str(tmp_path / "file"), moved, "--run.total_timesteps=1280"])
    table.loc[100, "open"] *= 1.0001
    table.to_csv(tmp_path / "moved.csv", index=False)
    month = str(table["date"][100])[:7]

    assert f"bars of own changed in {month}" in refused(capsys, "evaluate", str(tmp_path / "flag"), moved)


def test_data_says_what_it_read_and_trains_nothing(tmp_path, make_prices, capsys):
    make_prices(600)[::-1].to_csv(tmp_path / "own.csv", index=False)
    main(["data", str(tmp_path / "own.csv"), "sp500", "--market.bars_per_year=252"])
    printed = capsys.readouterr().out

    assert "own (" in printed
    assert "assumed    newest first: sorted" in printed
    assert "5,031 from 1999-01-04 (close 1,228.1) to 2018-12-31 (close 2,506.85); 252 a year" in printed

    main(["data", "--json", str(tmp_path / "own.csv")])
    (found,) = json.loads(capsys.readouterr().out)
    keys = [
        "symbol",
        "bars",
        "first",
        "last",
        "first_close",
        "last_close",
        "bars_per_year",
        "volatility_index",
        "fill",
        "unused_columns",
    ]

    assert {*keys, "assumptions", "periods"} <= found.keys()
    assert list(tmp_path.iterdir()) == [tmp_path / "own.csv"]
    assert "no file" in refused(capsys, "data", "nowhere.csv")
    assert "market.date_format" in refused(capsys, "data", "sp500", "--market.date_format=days")

    (tmp_path / "few.csv").write_text("date,close\n2000-01-03,1\n")

    assert "at least 60 are needed" in refused(capsys, "data", str(tmp_path / "few.csv"))


def test_variants_of_a_file_take_the_place_of_the_shipped_ones(tmp_path, monkeypatch):
    config = tmp_path / "mine.yaml"
    config.write_text("variants: {baseline: {}, own: {gamma: 0.9}}")

    assert resolved(monkeypatch, "compare", f"--config={config}").variants == {"baseline": {}, "own": {"gamma": 0.9}}


def test_help_shows_the_defaults_that_the_command_has(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    text = " ".join(capsys.readouterr().out.split())

    assert "(type: float, default: 1.8)" in text  # vf_coef of configs/train.yaml; PPO's is 0.5
    assert "--defaults" in text


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"distributional-ppo {distributional_ppo.__version__}\n"


OWN_PACKAGE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
gymnasium.register("OwnPole-v0", entry_point=CartPoleEnv, max_episode_steps=50)
"""


def test_a_package_that_registers_an_environment_is_imported_from_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_poles.py").write_text(OWN_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    own = [*QUICK, f"--run.out={tmp_path}", "--run.name=own", "--run.env_id=OwnPole-v0"]

    assert "OwnPole" in refused(capsys, *own)

    main([*own, "--run.import", "own_poles"])

    assert json.loads((tmp_path / "own" / "evaluation-test.json").read_text())["joint"]["agent"]["mean_reward"] > 5
    assert "No module named 'nowhere'" in refused(capsys, *own, "--run.import=nowhere")


def test_wrong_command_lines_are_refused(capsys, tmp_path, folder):
    assert "Did you mean algorithm.use_popart" in refused(capsys, "--algorithm.use_popartt=true")
    assert "Did you mean train" in refused(capsys, "trian")
    assert "use_variance_gradient_scaling" in refused(capsys, "--algorithm.use_variance_gradient_scalin=false")
    assert "algorithm.policy_kwargs.n_quantiles" in refused(capsys, "--algorithm.n_quantiles=3")
    assert "Did you mean" not in refused(capsys, "--algorithm.foo=3")
    assert "Did you mean market.trading.fee_bp" in refused(capsys, "--market.trading.fees=2")
    assert "error" in refused(capsys, "--run.out=/proc/nowhere")
    assert "no run folder" in refused(capsys, "evaluate", str(tmp_path))
    assert "nowhere.yaml" in refused(capsys, "train", "--config", "nowhere.yaml")
    assert "exists already" in refused(capsys, f"--run.out={folder.parent}", "--run.name=first")


def test_evaluate_refuses_other_data_and_folders_that_are_none(capsys, folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()

    for name in ("config.yaml", "run.json"):
        (copy / name).write_bytes((folder / name).read_bytes())

    assert "holds no checkpoint" in refused(capsys, "evaluate", str(copy))

    provenance = (copy / "run.json").read_text()
    (copy / "run.json").write_text(
        provenance.replace(json.loads(provenance)["data"]["S&P 500"]["months"]["2003-05"], "0")
    )

    assert "another fingerprint: bars of S&P 500 changed in 2003-05;" in refused(capsys, "evaluate", str(copy))

    (copy / "run.json").write_text("{")

    assert "torn" in refused(capsys, "evaluate", str(copy))


def same_run(one, other, read_scalars):
    """Whether two runs have the same scalars, but for ``time/``, the same figures and the same parameters."""
    rows = [pd.read_csv(folder / "progress.csv") for folder in (one, other)]
    rows = [frame.drop(columns=[c for c in frame if c.startswith("time/")]) for frame in rows]
    pd.testing.assert_frame_equal(*rows, check_exact=True)
    events = [
        {tag: [(e.step, e.value) for e in points] for tag, points in read_scalars(folder).items() if "time/" not in tag}
        for folder in (one, other)
    ]
    assert events[0] == events[1]
    for name in ("best.json", "evaluation-test.json", "trades-test.csv"):
        assert (one / name).read_text() == (other / name).read_text()
    # Parameters, optimizer, statistics, environment, generators: not a bit differs.
    tensors = [(newest_first(folder)[0] / "tensors.pt").read_bytes() for folder in (one, other)]
    assert tensors[0] == tensors[1]


EVERYTHING = [*QUICK, "--run.total_timesteps=1536", "--market.data=[sp500,nasdaq]", "--run.normalize_observations=true"]


EVERYTHING += [
    "--algorithm.value_target=sr_lambda",
    "--algorithm.use_twin_critics=true",
    "--algorithm.clip_range_vf=0.5",
]


EVERYTHING += ["--algorithm.variance_scaling_mode=dsac_t", "--algorithm.policy_kwargs.optimizer_class=AdaptiveUPGD"]


EVERYTHING += ["--algorithm.use_sde=true", "--run.checkpoint_every=256", "--algorithm.learning_rate=lin_0.001"]


EVERYTHING += ["--run.eval_every=1024", "--market.validation=[2009-01-01,2009-06-30]"]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train_model_multi_patch.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def forked(*arguments):
    """The same in a process that need not import anything anew, which would take longer than the run."""
    process = multiprocessing.get_context("fork").Process(target=main, args=(list(arguments),))
    process.start()
    return process


def rows_in(folder):
    path = folder / "progress.csv"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(condition, is_alive):
    """Until a process has come to it."""
    end = time.monotonic() + 60
    while not condition():
        assert is_alive()
        assert time.monotonic() < end
        time.sleep(0.002)


RECURRENT = [*EVERYTHING, "--algorithm.policy=MlpLstmPolicy", "--algorithm.policy_kwargs.lstm_hidden_size=8"]


RECURRENT += ["--algorithm.sequence_length=16"]


@pytest.mark.parametrize("command", [EVERYTHING, RECURRENT], ids=["everything", "recurrent"])
def test_killed_and_resumed_the_run_is_the_same(tmp_path, read_scalars, command):
    main([*command, f"--run.out={tmp_path}", "--run.name=whole"])
    folder = tmp_path / "killed"
    process = forked(*command, f"--run.out={tmp_path}", "--run.name=killed")
    wait_for(lambda: rows_in(folder) > 5, process.is_alive)
    process.kill()
    process.join()
    process = forked("train", "--resume", str(folder))
    process.join(120)

    assert process.exitcode == 0

    same_run(tmp_path / "whole", folder, read_scalars)
    figures = (folder / "evaluation-test.json").read_text()
    main(["evaluate", str(folder)])  # with the statistics of the observations from the checkpoint

    assert (folder / "evaluation-test.json").read_text() == figures


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["algorithm.sequence_length=16"], "algorithm.sequence_length=16 is for the recurrent policies MlpLstmPolicy,"),
        (
            ["algorithm.policy=MlpLstmPolicy", "algorithm.sequence_length=0"],
            "algorithm.sequence_length must be within [1, 1e+09], got 0",
        ),
        (
            ["algorithm.policy_kwargs.lstm_hidden_size=8"],
            "algorithm.policy_kwargs.lstm_hidden_size=8 is for the recurrent policies",
        ),
        (
            ["algorithm.policy_kwargs.lstm_kwargs.bias=false"],
            "algorithm.policy_kwargs.lstm_kwargs.bias=False is for the recurrent policies",
        ),
        (
            ["algorithm.policy=MlpLstmPolicy", "algorithm.policy_kwargs.lstm_kwargs.dropout=1.5"],
            "algorithm.policy_kwargs.lstm_kwargs.dropout must be within [0, 1], got 1.5",
        ),
        (
            ["algorithm.policy_kwargs.lstm_kwargs.dropot=0.1"],
            "Did you mean algorithm.policy_kwargs.lstm_kwargs.dropout?",
        ),
        (["algorithm.policy=MlpLstm"], "algorithm.policy wants MlpPolicy or CnnPolicy or MultiInputPolicy or MlpLstm"),
        (["algorithm.sequence_lenght=16"], "Did you mean algorithm.sequence_length?"),
    ],
)
def test_recurrent_keys_are_refused_in_one_sentence(capsys, flags, sentence):
    assert sentence in refused(capsys, "train", *QUICK, *(f"--{flag}" for flag in flags))


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_and_prints_the_command_that_goes_on(folder, tmp_path, read_scalars, asked, code):
    """A shell reports 128 and the signal's number: 2 of SIGINT, 15 of SIGTERM."""
    process = start(*QUICK, f"--run.out={tmp_path}", "--run.name=stopped")
    wait_for(lambda: rows_in(tmp_path / "stopped") > 1, lambda: process.poll() is None)
    process.send_signal(asked)
    output = process.communicate()[0]

    assert process.returncode == code
    assert "Traceback" not in output

    command = f"train_model_multi_patch.py train --resume {tmp_path / 'stopped'}"

    assert command in output

    main(["train", "--resume", str(tmp_path / "stopped")])
    same_run(folder, tmp_path / "stopped", read_scalars)


def test_n_steps_and_n_more_are_2n(folder, tmp_path, read_scalars):
    main([*QUICK, f"--run.out={tmp_path}", "--run.name=half", "--run.total_timesteps=512"])
    main(["train", "--resume", str(tmp_path / "half"), "--run.total_timesteps=1024"])
    same_run(folder, tmp_path / "half", read_scalars)

    assert yaml.safe_load((tmp_path / "half" / "config.yaml").read_text())["run"]["total_timesteps"] == 1024


def test_a_finished_run_resumes_to_the_same(folder, tmp_path, read_scalars):
    copy = shutil.copytree(folder, tmp_path / "copy")
    main(["--resume", str(copy)])
    same_run(folder, copy, read_scalars)


def test_resume_takes_the_newest_whole_checkpoint(folder, tmp_path, capsys, read_scalars):
    copy = shutil.copytree(folder, tmp_path / "copy")
    newest = newest_first(copy)[0]
    (newest / "state.json").write_text("{")
    main(["--resume", str(copy)])

    assert f"{newest} is torn" in capsys.readouterr().err

    same_run(folder, copy, read_scalars)


def test_resume_refuses_what_it_cannot_do(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "copy")

    assert "algorithm.gamma" in refused(capsys, "--resume", str(copy), "--algorithm.gamma=0.5")
    assert "leave --config" in refused(capsys, "--resume", str(copy), "--seeds=0-1")
    assert "no run folder" in refused(capsys, "--resume", str(tmp_path))

    with FileLock(copy / ".lock"):
        assert "another process" in refused(capsys, "--resume", str(copy))

    assert "only become longer" in refused(capsys, "--resume", str(copy), "--run.total_timesteps=512")

    for path in newest_first(copy):
        (path / "tensors.pt").write_bytes(b"")

    with pytest.raises(SystemExit):
        main(["--resume", str(copy)])

    assert "no checkpoint that can be resumed from" in capsys.readouterr().err

    (copy / "config.yaml").write_bytes(b"\xff\xfe\x00run: \x80")

    for command in (["--resume", str(copy)], ["evaluate", str(copy)], ["--config", str(copy / "config.yaml")]):
        assert "error: " in refused(capsys, *command)


def test_other_environments_go_on_with_new_episodes(tmp_path, capsys):
    pole = [*QUICK, "--run.env_id=CartPole-v1", f"--run.out={tmp_path}", "--run.name=pole"]
    main([*pole, "--run.total_timesteps=512"])
    main(["--resume", str(tmp_path / "pole"), "--run.total_timesteps=1024"])

    assert "new episodes" in capsys.readouterr().out
    assert "one of the market's" in refused(capsys, "evaluate", str(tmp_path / "pole"), "--period=train")

    rows = pd.read_csv(tmp_path / "pole" / "progress.csv")

    assert rows["time/total_timesteps"].dropna().tolist() == [256, 512, 768, 1024]


def test_several_seeds_in_one_command(folder, tmp_path, capsys):
    main([*QUICK, "--seeds=0,2", f"--run.out={tmp_path}", "--run.name=group"])
    group = tmp_path / "group"
    printed = capsys.readouterr().out

    assert all(word in printed for word in ("seed 0", "seed 2", "median", "buy and hold"))

    results = json.loads((group / "seeds-test.json").read_text())

    assert list(results) == ["0", "2"]
    assert results["0"] == json.loads((folder / "evaluation-test.json").read_text())
    assert yaml.safe_load((group / "seed-2" / "config.yaml").read_text())["algorithm"]["seed"] == 2

    main(["evaluate", str(group), "--period=validation", "--checkpoint=last"])

    assert (group / "seeds-validation.json").exists()
    assert "exists already" in refused(capsys, *QUICK, "--seeds=0,2", f"--run.out={tmp_path}", "--run.name=group")

    os.rename(group / "seed-2", tmp_path / "aside")
    main(["evaluate", str(group), "--period=validation"])

    assert "seed 2 is not trained" in capsys.readouterr().out

    # as if the first seed only had been trained
    group = group.rename(tmp_path / "moved")
    main(["--resume", str(group)])

    assert json.loads((group / "seeds-test.json").read_text()) == results


def test_own_long_table_with_positions_and_an_index(tmp_path, make_prices, capsys, monkeypatch):
    table = pd.concat([make_prices(seed=i).assign(symbol=name, vix=20.0 + i) for i, name in enumerate("AB")])
    table.to_csv(tmp_path / "prices.csv", index=False)
    own = ["--market.data=prices.csv", "--market.train=[2000-01-03,2001-06-30]"]
    own += ["--market.validation=[2001-07-01,2001-10-31]", "--market.test=[2001-11-01,2002-04-19]"]
    own += [
        "--market.trading.positions=[-1,0,1]",
        "--market.trading.cash_rate=0.03",
        "--market.regime_bounds=[15,20.5,40]",
    ]
    monkeypatch.chdir(tmp_path)
    main([*QUICK, *own, f"--run.out={tmp_path}", "--run.name=own"])
    monkeypatch.chdir("/")
    main(["evaluate", str(tmp_path / "own")])
    result = json.loads((tmp_path / "own" / "evaluation-test.json").read_text())

    assert list(result["symbols"]) == ["A", "B"]

    regimes = {symbol: of["agent"]["regimes"] for symbol, of in result["symbols"].items()}

    assert regimes["A"]["normal"]["bars"] == regimes["B"]["volatile"]["bars"] == result["joint"]["agent"]["bars"]

    trades = pd.read_csv(tmp_path / "own" / "trades-test.csv")

    assert set(trades["target"]) <= {-1.0, 0.0, 1.0}
    assert "by symbol" in capsys.readouterr().out


@pytest.mark.parametrize("test_days", ["[2011-01-03,2011-01-04]", "[2011-01-01,2012-12-31]"])
def test_an_agent_that_never_trades_is_evaluated(tmp_path, capsys, test_days, monkeypatch):
    def flat(self, seen):
        def decide(known):
            seen.append(known.observations)
            return np.zeros(len(known.bar))

        return decide

    monkeypatch.setattr(Study, "agent", flat)
    with drawing():
        main([*QUICK, f"--run.out={tmp_path}", "--run.name=flat", f"--market.test={test_days}"])

    result = json.loads((tmp_path / "flat" / "evaluation-test.json").read_text())

    assert result["joint"]["agent"]["sharpe_ratio"] is None
    assert result["share_of_random_timings_below_agent"] is None
    assert (tmp_path / "flat" / "trades-test.csv").exists()
    assert "tearsheet-test.html is left out" in capsys.readouterr().err


FLAGS = [a.dest for a in parsers.train_parser()._actions if "." in a.dest]


FLAGS = [name for name in FLAGS if not any(other.startswith(name + ".") for other in FLAGS)]


VALUES = st.one_of(
    st.floats(),
    st.integers(-5, 500),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.lists(st.floats(0, 1), max_size=3),
)


def train_or_refuse(capsys, tmp_path, values):
    """A run of a few steps with these values either trains, to finite parameters, or is refused in one sentence."""
    config = tmp_path / "config.yaml"
    nested = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    config.write_text(yaml.safe_dump(nested))
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    tiny = ["--run.total_timesteps=64", "--algorithm.n_steps=16", "--run.progress_bar=false", "--run.n_envs=2"]
    tiny += [f"--run.out={tmp_path / 'runs'}", "--run.name=run", "--algorithm.batch_size=16", "--algorithm.n_epochs=1"]
    parser = parsers.train_parser()
    try:
        read_config = parser.parse_args(["--config", str(config), *tiny])
        study = train.train_run(parser, read_config, None)[0]
    except SystemExit:
        assert capsys.readouterr().err.strip().split("\n")[-1].startswith("error: ")
    else:
        event("trained")
        assert all(torch.isfinite(p).all() for p in study.model.policy.parameters())


@given(st.dictionaries(st.sampled_from(FLAGS), VALUES, min_size=1, max_size=3))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_gives_one_sentence_or_finite_parameters(capsys, tmp_path, values):
    train_or_refuse(capsys, tmp_path, values)


NUMBERS = {
    "learning_rate": st.floats(0, 1e6),
    "gamma": st.floats(0, 1),
    "gae_lambda": st.floats(0, 1),
    "clip_range": st.floats(1e-9, 1e3),
    "ent_coef": st.floats(-1e6, 1e6),
    "vf_coef": st.floats(0, 1e6),
    "max_grad_norm": st.floats(1e-9, 1e9),
    "quantile_huber_kappa": st.floats(1e-30, 1e30),
    "return_stats_rate": st.floats(1e-9, 1),
    "variance_scaling_clip_min": st.floats(0, 1e6),
    "variance_scaling_clip_max": st.floats(1e6, 1e30),
    "normalize_returns": st.booleans(),
    "use_variance_gradient_scaling": st.booleans(),
    "policy_kwargs.n_quantiles": st.integers(2, 64),
    "policy_kwargs.log_std_init": st.floats(-50, 50),
}


@given(st.fixed_dictionaries({}, optional={f"algorithm.{name}": values for name, values in NUMBERS.items()}))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_extreme_numbers_give_one_sentence_or_finite_parameters(capsys, tmp_path, values):
    train_or_refuse(capsys, tmp_path, {"algorithm.use_popart": False, **values})


def test_help_lists_every_flag_with_its_meaning(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    text = capsys.readouterr().out

    for flag in ("use_variance_gradient_scaling", "quantile_huber_kappa", "policy_kwargs.n_quantiles"):
        assert f"--algorithm.{flag}" in text

    assert "clamped mean variance" in text


COMPARISONS = {"compare", "regimes"}


@pytest.mark.parametrize(
    "config",
    [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem not in {*COMPARISONS, "tune"}],
    ids=lambda path: path.name,
)
def test_every_config_loads(config):
    parser = parsers.train_parser()
    loaded = parser.parse_args([f"--config={ROOT / 'configs/train.yaml'}", f"--config={config}"])
    Study(*[getattr(parser.instantiate(loaded), name) for name in ("run", "market")], loaded.algorithm.as_dict())


@pytest.mark.parametrize("system", ["vf_clipping", "twin_critics", "dsac_t", "sr_lambda", "upgd", "recurrent"])
def test_each_system_has_a_config_that_trains_and_shows_itself(system, tmp_path):
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("train", system)]
    main(["train", *configs, *QUICK, f"--run.out={tmp_path}", "--run.name=run", "--run.eval_every=4096"])
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["algorithm"]
    rows = pd.read_csv(tmp_path / "run" / "progress.csv")

    assert (config["use_popart"], config["vf_coef"]) == (True, 1.8)  # train.yaml lies under it

    shown = {
        "vf_clipping": "train/clip_fraction_vf" in rows,
        "twin_critics": "train/variance_scaling_weight_2" in rows,
        "dsac_t": config["variance_scaling_mode"] == "dsac_t" and rows["train/variance_scaling_weight_max"].max() > 0,
        "sr_lambda": config["value_target"] == "sr_lambda",
        "upgd": config["policy_kwargs"]["optimizer_class"] == "AdaptiveUPGD",
        "recurrent": "lstm_critic.weight_hh_l0" in read(newest_first(tmp_path / "run")[0])[0]["parameters"]["policy"],
    }

    assert shown[system]


def test_benchmark_holds_one_whatever_the_agent_may(tmp_path):
    main([*QUICK, f"--run.out={tmp_path}", "--run.name=half", "--market.trading.position_high=0.5"])
    result = json.loads((tmp_path / "half" / "evaluation-test.json").read_text())

    assert result["joint"]["buy and hold"]["total_return"] == pytest.approx(1362.16 / 1258.86 - 1, abs=0.01)
    assert result["joint"]["agent"]["exposure"] <= 0.51


SMALL = ["--compare.seeds=0", "--compare.first_test=2011-01-01", "--compare.test_years=2", "--run.progress_bar=false"]


SMALL += [
    "--run.total_timesteps=2048",
    "--compare.workers=1",
    "--algorithm.n_epochs=1",
    "--compare.last_test=2012-12-31",
]


TWO = """--variants={"baseline": {}, "batch": {"use_variance_gradient_scaling": true}}"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two variants, one cell each; and what was printed."""
    out = tmp_path_factory.mktemp("comparisons")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), cells_here():
        main(["compare", *SMALL, TWO, f"--run.out={out}", "--run.name=two"])
    return out / "two", printed.getvalue()


def test_compare_writes_tables_and_a_report(compared):
    folder, printed = compared
    cells = pd.read_csv(folder / "cells.csv")

    assert cells[["market", "fold", "variant", "status"]].to_numpy().tolist() == [
        ["sp500", "2011-01 to 2012-12", "baseline", "ok"],
        ["sp500", "2011-01 to 2012-12", "batch", "ok"],
    ]

    exact = pd.read_parquet(folder / "cells.parquet")["test_sharpe"].to_numpy()

    assert cells["test_sharpe"].tolist() == [float(f"{sharpe:.6g}") for sharpe in exact]
    assert set(pd.read_parquet(folder / "curves.parquet")["variant"]) == {"baseline", "batch"}
    assert len(pd.read_parquet(folder / "daily.parquet")) == 2 * 502

    question = "The explained variance rises"

    assert question in (folder / "report.html").read_text()
    assert f"- {question} (explained variance; hoped: more)\n    batch against baseline: N/A" in printed
    assert printed.splitlines()[-1].startswith(
        "sp500: calm and stormy days pull the critic alike (a ratio of 0.8 to 1.25)"
    )
    assert "sp500, 2011-01 to 2012-12: train 1999-01-04 to 2010-12-01" in printed


def test_a_comparison_goes_on_and_takes_more_seeds(compared, tmp_path, capsys, here):
    folder = shutil.copytree(compared[0], tmp_path / "two")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    main(["compare", "--resume", str(folder), "--compare.seeds=0-1"])

    assert len(pd.read_csv(folder / "cells.csv")) == 4
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}.items()

    changed = refused(capsys, "compare", "--resume", str(folder), "--algorithm.gamma=0.9")

    assert "was started with algorithm.gamma=0.95" in changed


def test_ctrl_c_says_how_the_comparison_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", interrupted)

    with pytest.raises(SystemExit) as stop:
        main(["compare", *SMALL, TWO, f"--run.out={tmp_path}", "--run.name=stopped"])

    assert stop.value.code == 130
    assert f" compare --resume {tmp_path / 'stopped'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants={}"], "there are no variants"),
        (["--variants={'a': {}}"], "compare.baseline=baseline is none of the variants a"),
        (["--variants={'baseline': {'use_twin_critic': true}}"], "Did you mean algorithm.use_twin_critics?"),
        (["--variants={'baseline': {'gamma': 'high'}}"], "variants.baseline"),
        (["--variants={'baseline': {'vf_coef': -1}}"], "algorithm.vf_coef must be within"),
        (["--variants={'baseline': {'n_envs': 0}}"], "run.n_envs must be at least 1"),
        ([TWO, "--run.env_id=CartPole-v1"], "only markets have folds"),
        ([TWO, "--compare.first_test=2030-01-01"], "leaves no test period"),
        ([TWO, "--compare.basline=1"], "Did you mean compare.baseline?"),
        ([TWO, "--compare.executor=threads"], "compare.executor"),
        ([TWO, "--market.data=nowhere.csv"], "there is no file"),
    ],
)
def test_comparisons_that_cannot_be_are_refused_before_any_training(tmp_path, capsys, arguments, words):
    assert words in refused(capsys, "compare", *SMALL, f"--run.out={tmp_path}", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_comparisons_are_configured_to_the_last_variant(name, tmp_path, monkeypatch, capsys):
    """All variants are tried on a fold before the first one is trained; their cells can be handed to processes."""

    def nothing(self, *args):
        assert len(self.cells) >= 90
        assert pickle.loads(pickle.dumps(self.cells)) == self.cells
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", nothing)

    with pytest.raises(SystemExit):
        main([name, f"--run.out={tmp_path}"])


@pytest.mark.parametrize(("flag", "code"), [("true", None), ("false", 1)])
def test_sanity_says_whether_the_scaling_works(tmp_path, capsys, flag, code):
    arguments = ["sanity", f"--run.out={tmp_path}", f"--algorithm.use_variance_gradient_scaling={flag}"]
    if code is None:
        main([*arguments, "--run.progress_bar=false"])
    else:
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--run.progress_bar=false"])
        assert stop.value.code == code
    printed = capsys.readouterr().out

    assert ("NO" in printed) == (code == 1)
    assert ("4 of 4" in printed) == (code is None)


def test_tensorboard_shows_the_scaling_page(folder, browser):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]

    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={folder}", f"--port={port}", "--load_fast=false"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shadows = """
        const texts = [];
        const walk = node => {
            texts.push(...[...node.childNodes].filter(n => n.nodeType == 3).map(n => n.textContent));
            if (node.shadowRoot) walk(node.shadowRoot);
            [...node.children].forEach(walk);
        };
        walk(document.body);
        return texts.join(' ');
    """
    words = ("Variance gradient scaling", "weight", "volatility index of the rollout")
    try:
        wait_until(lambda: socket.create_connection(("localhost", port)).close() is None)
        browser.get(f"http://localhost:{port}/#custom_scalars")
        wait_until(lambda: all(word in browser.execute_script(shadows) for word in words))
    finally:
        server.kill()
        server.wait()


def wait_until(condition, seconds=60):
    """Until it holds; what it raises meanwhile is not there yet."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < end
        time.sleep(0.2)
