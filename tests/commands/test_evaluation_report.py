"""
The runs of several seeds as one: which seed and which checkpoint a figure belongs to. Oracles: the seeds' own folders,
each evaluated by itself.
"""

import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from builders import QUICK_FLAGS

from market_regimes import Agent
from market_regimes.evaluate.robustness import interval_over_seeds
from train_model_multi_patch import main

QUICK = ["--run.total_timesteps=256", "--run.n_envs=2", "--run.eval_every=128", "--run.progress_bar=false"]


QUICK += ["--algorithm.n_steps=64", "--algorithm.batch_size=64", "--algorithm.n_epochs=4", "--market.episode_bars=60"]


QUICK += ["--market.train=[2000-01-03,2001-06-29]", "--market.validation=[2001-07-02,2001-10-31]"]


QUICK += ["--market.test=[2001-11-01,2003-01-31]", "--algorithm.learning_rate=0.01", "--seeds=2,0"]


DAYS = ["--from", "2001-11-01", "--to", "2003-01-31"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_prices):
    """A folder of the seeds 0 and 2, whose best models are of step 128 and whose last are of 256; and its file."""
    folder = tmp_path_factory.mktemp("groups")
    make_prices(810).to_csv(folder / "prices.csv", index=False)
    main([*QUICK, f"--market.data={folder / 'prices.csv'}", f"--run.out={folder}", "--run.name=group"])
    for seed in (0, 2):
        (folder / f"group/seed-{seed}/best.json").write_text(json.dumps({"step": 128}))
    return folder / "group", folder / "prices.csv"


@pytest.fixture
def group(trained, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(trained[0], tmp_path / "group")


WAYS = {  # of an evaluation, and the name of its files
    "a period of its own": (["--period", "test"], "test"),
    "days": (DAYS, "2001-11-01-to-2003-01-31"),
    "a file": (["--data", "FILE", *DAYS], "prices-2001-11-01-to-2003-01-31"),
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request, trained):
    """Arguments of an evaluation, and the name of its files."""
    arguments, name = request.param
    return [str(trained[1]) if argument == "FILE" else argument for argument in arguments], name


@pytest.mark.parametrize(("which", "step"), [("best", 128), ("last", 256)])
def test_every_seed_of_a_group_is_scored_by_the_checkpoint_that_is_asked_for(group, way, which, step):
    arguments, name = way
    main(["evaluate", str(group), *arguments, "--checkpoint", which])
    results = json.loads((group / f"seeds-{name}.json").read_text())

    assert {seed: result["step"] for seed, result in results.items()} == {"0": step, "2": step}


def test_a_seed_has_the_figures_of_its_own_folder_under_its_own_number(group, way, monkeypatch, capsys):
    arguments, name = way
    monkeypatch.setenv("COLUMNS", "300")
    main(["evaluate", str(group), *arguments])
    printed = capsys.readouterr().out
    together = json.loads((group / f"seeds-{name}.json").read_text())

    assert list(together) == ["0", "2"]

    for seed in (0, 2):
        folder = group / f"seed-{seed}"
        main(["evaluate", str(folder), *arguments])
        alone = json.loads((folder / f"evaluation-{name}.json").read_text())
        assert together[str(seed)] == alone

    ratios = [together[seed]["joint"]["agent"]["sharpe_ratio"] for seed in ("0", "2")]

    assert ratios[0] != ratios[1]
    assert re.search(r"figure +seed 0 +seed 2 +median +buy and hold", printed)
    assert re.search(rf"sharpe_ratio +{ratios[0]:.2f} +{ratios[1]:.2f} +{np.mean(ratios):.2f} ", printed)


def test_the_verdict_of_a_group_is_a_file_of_its_figures(group, capsys):
    """Differences and errors of both seeds, from their own files, by ``interval_over_seeds``."""
    main(["evaluate", str(group)])
    printed = capsys.readouterr().out
    results = [json.loads((group / f"seed-{seed}/evaluation-test.json").read_text()) for seed in (0, 2)]
    found = json.loads((group / "verdict-test.json").read_text())
    agents = [result["joint"]["agent"]["sharpe_ratio"] for result in results]
    held = results[0]["joint"]["buy and hold"]["sharpe_ratio"]
    errors = [result["robustness"]["sharpe_difference_std_error"] for result in results]
    bounds = interval_over_seeds(np.array(agents) - held, np.array(errors))

    assert (found["seeds"], found["mean_sharpe_ratio"]) == (2, pytest.approx(np.mean(agents)))
    assert (found["sharpe_difference_low"], found["sharpe_difference_high"]) == pytest.approx(bounds)

    sentence = f"mean Sharpe ratio {np.mean(agents):.2f} against {held:.2f}, difference {np.mean(agents) - held:+.2f} "

    assert f"{sentence}[{bounds[0]:+.2f}, {bounds[1]:+.2f}], 2 seeds; " in found["verdict"]
    assert printed.count(found["verdict"]) == 1
    assert "seeds-test.json, verdict-test.json" in printed


def test_one_run_shows_the_figures_of_its_verdict_in_sentence_table_and_json(group, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    main(["evaluate", str(group / "seed-2")])
    printed = capsys.readouterr().out
    result = json.loads((group / "seed-2/evaluation-test.json").read_text())
    found = result["robustness"]
    low, high = found["sharpe_difference_low"], found["sharpe_difference_high"]

    assert low <= found["sharpe_difference"] <= high

    difference = f"difference {found['sharpe_difference']:+.2f} [{low:+.2f}, {high:+.2f}], one seed; "

    assert difference in printed.splitlines()[0]

    interval = f"95 % interval {low:.2f} to {high:.2f}\n"

    assert f"Sharpe ratio minus that of buy-and-hold: {found['sharpe_difference']:.2f}, {interval}" in printed

    later = found["sharpe_ratio_one_bar_later"]

    assert f"Sharpe ratio with orders filled one bar later: {later:.2f}; break-even cost in bp: " in printed


def test_a_group_that_goes_on_scores_each_seed_at_its_new_end(group, capsys):
    main(["--resume", str(group), "--run.total_timesteps=384"])
    results = json.loads((group / "seeds-test.json").read_text())
    steps = {seed: json.loads((group / f"seed-{seed}/best.json").read_text())["step"] for seed in ("0", "2")}

    assert {seed: result["step"] for seed, result in results.items()} == steps

    main(["evaluate", str(group), "--checkpoint=last"])
    last = json.loads((group / "seeds-test.json").read_text())

    assert {seed: result["step"] for seed, result in last.items()} == {"0": 384, "2": 384}


def test_a_signal_is_that_of_the_checkpoint_that_is_asked_for(group, trained, capsys):
    """Against the agent of each checkpoint, asked from Python."""
    folder = group / "seed-2"
    targets = {which: Agent.load(folder, which).signal(trained[1])[0].target for which in ("best", "last")}

    assert targets["best"] != targets["last"]

    for which, target in targets.items():
        capsys.readouterr()
        main(["signal", str(folder), "--data", str(trained[1]), "--checkpoint", which, "--json"])
        (answer,) = json.loads(capsys.readouterr().out)
        assert answer["target"] == pytest.approx(target)


RECURRENT = ["--algorithm.policy=MlpLstmPolicy", "--algorithm.policy_kwargs.lstm_hidden_size=8"]


def next_signal(shown, data):
    """The arguments of the signal that is proposed, with the file in place of FILE."""
    (line,) = (line for line in shown.splitlines() if " signal " in line and " --data FILE" in line)
    return shlex.split(line.split(" signal ")[1].replace("FILE", str(data)))


@pytest.mark.parametrize("flags", [RECURRENT, []])
@pytest.mark.parametrize("seeds", [[], ["--seeds=0,1"]])
def test_the_next_signal_decides_what_the_evaluation_decided(tmp_path, make_prices, capsys, flags, seeds):
    prices = make_prices(400)
    prices.to_csv(tmp_path / "p.csv", index=False)
    main([*QUICK_FLAGS, *flags, *seeds, f"--market.data={tmp_path / 'p.csv'}", f"--run.out={tmp_path}", "--run.name=x"])
    folder = tmp_path / "x"
    shown = {"test": capsys.readouterr().out}

    for name, arguments in (
        ("test", []),
        ("validation", ["--period=validation"]),
        ("p-2001-02-01-to-2001-05-31", ["--data", str(tmp_path / "p.csv"), "--from=2001-02-01", "--to=2001-05-31"]),
    ):
        main(["evaluate", str(folder), *arguments])
        shown[name] = capsys.readouterr().out
        assert (" --from 200" in shown[name]) == bool(flags)
        one = folder / "seed-0" if seeds else folder
        decided = pd.read_csv(one / f"positions-{name}.csv").iloc[[20, -1]]
        for row in decided.itertuples():
            prices[prices["date"] <= row.date].to_csv(tmp_path / "cut.csv", index=False)
            position = [] if flags else ["--position", repr(row.position)]
            main(["signal", *next_signal(shown[name], tmp_path / "cut.csv"), *position, "--json"])
            (entry,) = json.loads(capsys.readouterr().out)
            assert (entry["date"], entry["target"]) == (row.date, pytest.approx(row.target, rel=1e-12))
            assert entry["position"] == pytest.approx(row.position, rel=1e-12)
