"""The command line as a user meets it: each test runs ``main`` on a command and looks at what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

import train_model_multi_patch
from market_regimes.study import MarketConfig, RunConfig, Study
from train_model_multi_patch import main

ROOT = Path(__file__).parent.parent
QUICK = ["--run.total_timesteps=1024", "--run.n_envs=4", "--algorithm.n_steps=64", "--run.eval_every=512"]
QUICK += ["--run.progress_bar=false", "--algorithm.n_epochs=2", "--algorithm.batch_size=64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    main([*QUICK, f"--run.out={out}", "--run.name=first"])
    return out / "first"


def refused(capsys, *arguments):
    """The sentence with which the command line refuses."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def test_run_folder_holds_everything(folder):
    names = {path.name.split(".")[0] for path in folder.iterdir()}
    assert {"config", "run", "best", "checkpoints", "events", "progress", "model", "training"} <= names
    assert {f"{name}-test" for name in ("evaluation", "trades", "tearsheet", "equity", "returns")} <= names
    provenance = json.loads((folder / "run.json").read_text())
    assert provenance["seed"] == 0
    assert len(provenance["data"]["S&P 500"]["sha256"]) == 64
    assert provenance["packages"]["torch"].startswith("2.")
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
    main(["evaluate", str(folder)])
    assert json.loads((folder / "evaluation-test.json").read_text()) == before
    printed = capsys.readouterr().out
    assert "sharpe_ratio" in printed
    assert "buy and hold" in printed
    assert "n/a" in printed  # no crash in the test period
    assert before["joint"]["buy and hold"]["total_return"] == pytest.approx(2506.85 / 1257.62 - 1, abs=0.01)


def test_evaluate_takes_a_period(folder):
    main(["evaluate", str(folder), "--period", "validation"])
    assert json.loads((folder / "evaluation-validation.json").read_text())["joint"]["agent"]["bars"] == 504
    assert (folder / "equity-validation.png").exists()


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
        ("algorithm: {clip_range_vf: 0.2}", "clip_range_vf"),
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
        ("run: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_wrong_files_are_refused_with_the_nearest_name(capsys, tmp_path, text, expected):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    assert expected in refused(capsys, "train", "--config", str(config), f"--run.out={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


def test_wrong_command_lines_are_refused(capsys, tmp_path, folder):
    assert "Did you mean algorithm.use_popart" in refused(capsys, "--algorithm.use_popartt=true")
    assert "Did you mean train" in refused(capsys, "trian")
    assert "use_variance_gradient_scaling" in refused(capsys, "--algorithm.use_variance_gradient_scalin=false")
    assert "algorithm.policy_kwargs.n_quantiles" in refused(capsys, "--algorithm.n_quantiles=3")
    assert "Did you mean" not in refused(capsys, "--algorithm.foo=3")
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
    (copy / "run.json").write_text(provenance.replace(json.loads(provenance)["data"]["S&P 500"]["sha256"], "0"))
    assert "fingerprint" in refused(capsys, "evaluate", str(copy))
    (copy / "run.json").write_text("{")
    assert "torn" in refused(capsys, "evaluate", str(copy))


def test_help_lists_every_flag_with_its_meaning():
    text = subprocess.run(
        [sys.executable, str(ROOT / "train_model_multi_patch.py"), "train", "--help"], capture_output=True, text=True
    ).stdout
    for flag in ("use_variance_gradient_scaling", "quantile_huber_kappa", "policy_kwargs.n_quantiles"):
        assert f"--algorithm.{flag}" in text
    assert "clamped mean variance" in text


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_loads(config):
    parser = train_model_multi_patch._train_parser()
    loaded = parser.parse_path(str(config))
    Study(*[getattr(parser.instantiate(loaded), name) for name in ("run", "market")], loaded.algorithm.as_dict())


def test_benchmark_holds_one_whatever_the_agent_may(tmp_path):
    main([*QUICK, f"--run.out={tmp_path}", "--run.name=half", "--market.trading.position_high=0.5"])
    result = json.loads((tmp_path / "half" / "evaluation-test.json").read_text())
    assert result["joint"]["buy and hold"]["total_return"] == pytest.approx(2506.85 / 1257.62 - 1, abs=0.01)
    assert result["joint"]["agent"]["exposure"] <= 0.51
