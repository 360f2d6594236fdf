"""The command line as a user meets it: each test runs ``main`` on a command and looks at what it leaves."""

import contextlib
import json
import multiprocessing
import os
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
import yaml
from builders import drawing, refused
from filelock import FileLock

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
    def flat(self):
        return lambda known: np.zeros(len(known.bar))

    monkeypatch.setattr(Study, "agent", flat)
    with drawing():
        main([*QUICK, f"--run.out={tmp_path}", "--run.name=flat", f"--market.test={test_days}"])

    result = json.loads((tmp_path / "flat" / "evaluation-test.json").read_text())

    assert result["joint"]["agent"]["sharpe_ratio"] is None
    assert result["share_of_random_timings_below_agent"] is None
    assert (tmp_path / "flat" / "trades-test.csv").exists()
    assert "tearsheet-test.html is left out" in capsys.readouterr().err


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


# One process for each row: it calls every command line and ends with the names of what it has imported meanwhile.
IMPORTED_BY = """
import json, sys
import train_model_multi_patch

for arguments in json.loads(sys.argv[1]):
    try:
        train_model_multi_patch.main(arguments)
    except SystemExit:
        pass
print(json.dumps(sorted(sys.modules)))
"""


COMMAND_NAMES = ("train", "sanity", "evaluate", "signal", "export", "data", "tune", "compare", "regimes")


PRINTED_AT_ONCE = [
    ["--version"],
    ["--help"],
    *([name, "--help"] for name in COMMAND_NAMES),
    ["--sede=3"],
    ["--algorithm.gama=0.9"],
    ["tune", "--trial=3"],
    ["evaluate", "runs/x", "--periode=test"],
]


@pytest.mark.parametrize(
    ("command_lines", "expected", "spared"),
    [
        (
            PRINTED_AT_ONCE,
            {"jsonargparse", "market_regimes.commands.parsers"},
            {"torch", "stable_baselines3", "gymnasium", "pandas", "scipy", "statsmodels", "matplotlib", "rich"},
        ),
        (
            [["data", "sp500"]],
            {"pandas", "market_regimes.commands.data"},
            {"torch", "stable_baselines3", "gymnasium", "scipy", "statsmodels", "matplotlib", "rich"},
        ),
    ],
    ids=["version, help and wrong flags", "data"],
)
def test_a_command_imports_no_library_that_it_does_not_need(tmp_path, command_lines, expected, spared):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_BY, json.dumps(command_lines)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(json.loads(done.stdout.splitlines()[-1]))

    assert expected <= imported
    assert imported & spared == set()


def test_without_the_libraries_of_the_command_line_it_says_what_to_install():
    code = (
        "import runpy, sys; sys.modules['jsonargparse'] = None; "
        f"runpy.run_path({str(ROOT / 'train_model_multi_patch.py')!r}, run_name='__main__')"
    )

    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)

    sentence = 'error: the command line needs jsonargparse: pip install "distributional-ppo[market]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)
