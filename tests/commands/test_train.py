"""
What is printed and written of a resumed run is that of the uninterrupted one: its checkpoint, seed, days and data.
Oracle: the same run in one go, in another folder, and an agent that is asked by itself.
"""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from market_regimes import Agent
from market_regimes.run.checkpoint import newest_first
from train_model_multi_patch import main

STEPS = 256
QUICK = ["--run.n_envs=2", "--run.eval_every=64", "--run.checkpoint_every=64", "--run.progress_bar=false"]
QUICK += ["--algorithm.n_steps=32", "--algorithm.batch_size=32", "--algorithm.n_epochs=4", "--market.episode_bars=60"]
QUICK += ["--algorithm.learning_rate=0.01", "--algorithm.device=cpu"]
SEEDS = (3, 5)  # neither is a place in a list
FILES = ("evaluation-test.json", "positions-test.csv", "trades-test.csv", "best.json")


def train(place, data, name, steps, *flags):
    main(
        [
            *QUICK,
            *flags,
            f"--run.total_timesteps={steps}",
            f"--market.data={data}",
            f"--run.out={place}",
            f"--run.name={name}",
        ]
    )
    return place / name


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Pictures and tear sheets take most of the time, and no test here looks at them."""
    blank = SimpleNamespace(savefig=lambda path: None)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("picture_of_equity", "tear_sheet"):
            patch.setattr(f"market_regimes.evaluate.evaluation.{name}", lambda *arguments: None)
        patch.setattr("market_regimes.run.agent.returns_picture", lambda *arguments: blank)
        patch.setattr("market_regimes.run.study.returns_picture", lambda *arguments: None)
        patch.setattr("market_regimes.run.study.picture_of_training", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_prices):
    folder = tmp_path_factory.mktemp("resumed")
    make_prices(500).to_csv(folder / "p.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def whole(place):
    """By seed a run in one go."""
    return {seed: train(place, place / "p.csv", f"whole-{seed}", STEPS, f"--algorithm.seed={seed}") for seed in SEEDS}


def best_and_last(folder):
    return json.loads((folder / "best.json").read_text())["step"], int(newest_first(folder)[0].name[:12])


def same(one, two, names=FILES):
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.fixture(scope="module")
def resumed(place, whole):
    """A run that was stopped half way, whose data have grown and moved since."""
    folder = train(place, place / "p.csv", "resumed", STEPS // 2, "--algorithm.seed=3")
    shutil.copytree(folder, place / "half")
    (place / "moved").mkdir()
    table = pd.read_csv(place / "p.csv")
    more = table.iloc[-60:].assign(date=pd.date_range("2001-12-03", periods=60, freq="B").strftime("%Y-%m-%d"))
    pd.concat([table, more]).to_csv(place / "moved" / "p.csv", index=False)
    main(["--resume", str(folder), f"--run.total_timesteps={STEPS}", f"--market.data={place / 'moved' / 'p.csv'}"])
    return folder


def test_the_runs_tell_checkpoints_and_seeds_apart(whole, place, resumed):
    """Else the tests below would see nothing."""
    assert any(len(set(best_and_last(folder))) == 2 for folder in whole.values())

    figures = [(folder / "evaluation-test.json").read_text() for folder in (*whole.values(), place / "half")]

    assert len(set(figures)) == 3


def test_a_resumed_run_has_the_figures_of_the_whole_one(whole, resumed):
    same(resumed, whole[3])


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluate_scores_the_checkpoint_that_is_asked_for(whole, resumed, which):
    """Its step, its decisions and its random timings, which the run's seed draws."""
    for folder in (resumed, *whole.values()):
        main(["evaluate", str(folder), f"--checkpoint={which}"])
        step = best_and_last(folder)[which == "last"]
        result = json.loads((folder / "evaluation-test.json").read_text())
        assert result["step"] == step == Agent.load(folder, which).step
        days = yaml.safe_load((folder / "config.yaml").read_text())["market"]["test"]
        data = yaml.safe_load((folder / "config.yaml").read_text())["market"]["data"]
        (frame,) = Agent.load(folder, which).backtest(data, *days).values()
        decided = pd.read_csv(folder / "positions-test.csv")
        assert decided["target"].tolist() == pytest.approx(frame["target"].tolist(), rel=1e-12)

    same(resumed, whole[3], FILES[:3])
    main(["evaluate", str(resumed)])
    main(["evaluate", str(whole[3])])
    same(resumed, whole[3])


@pytest.fixture(scope="module")
def group(place):
    """Runs of several seeds that were stopped half way."""
    folder = train(place, place / "p.csv", "group", STEPS // 2, "--seeds=3,5")
    main(["--resume", str(folder), f"--run.total_timesteps={STEPS}"])
    return folder


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_group_has_the_figures_of_its_runs_by_their_seeds(place, whole, group, which, capsys):
    """Resumed from half of the way, seeds 3 and 5 are those of the single runs."""
    named = [] if which == "best" else [f"--checkpoint={which}"]  # the best one, if none is named
    main(["evaluate", str(group), *named])
    shown = capsys.readouterr().out
    results = json.loads((group / "seeds-test.json").read_text())

    assert list(results) == ["3", "5"]

    for seed, folder in whole.items():
        main(["evaluate", str(folder), f"--checkpoint={which}"])
        expected = json.loads((folder / "evaluation-test.json").read_text())
        same(group / f"seed-{seed}", folder)
        assert results[str(seed)] == expected
        assert expected["step"] == best_and_last(folder)[which == "last"]
        assert f"{expected['joint']['agent']['sharpe_ratio']:.2f}" in shown

    data = ["--data", str(place / "p.csv"), "--from=2001-08-01"]
    main(["evaluate", str(group), f"--checkpoint={which}", *data])
    (path,) = group.glob("seeds-p-*.json")

    for seed, result in json.loads(path.read_text()).items():
        assert result["step"] == best_and_last(whole[int(seed)])[which == "last"]


def test_the_periods_of_a_run_stay_when_its_data_grow(resumed, whole):
    """Shares of the longer file would be other days."""
    configs = [yaml.safe_load((folder / "config.yaml").read_text())["market"] for folder in (resumed, whole[3])]

    for name in ("train", "validation", "test"):
        assert configs[0][name] == configs[1][name]

    assert [config["data"].split("/")[-2] for config in configs] == ["moved", whole[3].parent.name]
    assert (resumed / "scaling.json").read_text() == (whole[3] / "scaling.json").read_text()


def test_the_model_that_is_kept_is_the_best_one(resumed, whole, make_prices):
    """``model.zip``, the agent and the signal of a resumed run are those of the whole one."""
    prices = make_prices(500)
    one, two = (Agent.load(folder) for folder in (resumed, whole[3]))

    for name, value in one.model.policy.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), two.model.policy.state_dict()[name].numpy())

    assert one.signal(prices)[0].target == two.signal(prices)[0].target

    kept = [
        type(one.model).load(folder / "model.zip", device="cpu").policy.state_dict() for folder in (resumed, whole[3])
    ]

    for name, value in one.model.policy.state_dict().items():
        np.testing.assert_array_equal(kept[0][name].numpy(), value.numpy())
        np.testing.assert_array_equal(kept[1][name].numpy(), value.numpy())


def test_a_second_resumption_changes_no_figure(resumed, place, tmp_path):
    copy = shutil.copytree(resumed, tmp_path / "copy")
    before = {name: (copy / name).read_bytes() for name in FILES}
    main(["--resume", str(copy)])

    assert {name: (copy / name).read_bytes() for name in FILES} == before
