"""The command ``tune``: from a configuration to the best one. Its trials are tested in tests/tune/test_search.py."""

import json
import re
import statistics
import sys

import pandas as pd
import pytest
import yaml

from market_regimes.commands import parsers
from market_regimes.tune import search as tuning
from market_regimes.tune.space import check_key, distribution_of
from train_model_multi_patch import main

CONFIG = """
run: {total_timesteps: 32, n_envs: 2}
algorithm: {n_steps: 16, batch_size: 32, n_epochs: 1}
seeds: 0-1
validation_years: 1
space:
  algorithm.gamma: {low: 0.8, high: 0.9}
  algorithm.policy_kwargs.n_quantiles: [3, 5]
  run.n_envs: [1, 3]
"""


@pytest.fixture
def search(make_prices, tmp_path, monkeypatch):
    """Arguments of a search of one process, this one, in the folder runs/s."""
    monkeypatch.setattr(tuning, "_run_workers", lambda search, count: tuning.work(search, 0))
    monkeypatch.chdir(tmp_path)
    make_prices(900).to_csv("own.csv", index=False)
    (tmp_path / "my.yaml").write_text(CONFIG)
    return ["tune", "--config=my.yaml", "--market.data=own.csv", "--run.name=s", "--trials", "3"]


def test_the_best_values_are_a_configuration_that_train_takes(search, tmp_path, capsys):
    main(search)
    said = capsys.readouterr().out
    best = yaml.safe_load((tmp_path / "runs/s/best.yaml").read_text())
    rows = dict(re.findall(r"^  ([\w.]+): (\S+)$", said, re.M))

    # The best trial's growth is the median over its seeds of the mean over its folds.
    table = pd.read_csv("runs/s/trials.csv")
    growths = json.loads(table.loc[table["value"].idxmax(), "user_attrs_growths"])
    growth = statistics.median(statistics.mean(of_seed) for of_seed in growths)
    assert re.search(rf"Sharpe ratio of validation \S+, growth a year {100 * growth:.1f} %\n", said)

    assert str(best["algorithm"]["gamma"]) == rows["algorithm.gamma"]
    assert str(best["algorithm"]["policy_kwargs"]["n_quantiles"]) == rows["algorithm.policy_kwargs.n_quantiles"]
    assert str(best["run"]["n_envs"]) == rows["run.n_envs"]
    assert best["algorithm"]["vf_coef"] == 1.8  # of configs/tune.yaml
    assert best["market"]["data"] == str(tmp_path / "own.csv")
    # 900 bars from 2000-01-03 are 1258 days; the test begins 944 days on, the last bar before it lies 942 days on,
    # validation begins after half of these.
    assert "own: train 2000-01-03 to 2001-03-18, validate 2001-04-18 to 2002-04-17\n" in said
    assert "validate 2002-04-18 to 2002-08-02\n" in said
    assert "no bar of the test period, nor any after it, is used" in said
    assert {path.name for path in (tmp_path / "runs/s").iterdir()} >= {
        *("best.yaml", "config.yaml", "study.db", "trials.csv", "history.png", "importance.png")
    }

    config = parsers.command_parser("", "train", with_defaults=False).parse_args(["train", "--config=runs/s/best.yaml"])

    assert config.train.algorithm.gamma == best["algorithm"]["gamma"]
    assert (config.train.run.name, config.train.defaults) == (None, "none")


def test_a_search_goes_on_and_may_become_longer_and_nothing_else(search, capsys):
    main(search)
    main(["tune", "--resume", "runs/s", "--trials=4"])
    said = capsys.readouterr().out

    assert re.findall(r"^trial (\d)", said, re.M) == ["0", "1", "2", "3"]
    with pytest.raises(SystemExit):
        main(["tune", "--resume", "runs/s", "--algorithm.vf_coef=2"])

    assert "was started with algorithm.vf_coef=1.8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(search)

    assert "exists already" in capsys.readouterr().err


def test_a_search_that_is_stopped_says_how_it_goes_on(search, monkeypatch, capsys):
    def stop(search, count):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "_run_workers", stop)

    with pytest.raises(SystemExit) as end:
        main(search)

    assert end.value.code == 130
    assert capsys.readouterr().out.endswith("tune --resume runs/s\n")


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (
            "algorithm.gama: [0.9]",
            "the space has a key that train has not, algorithm.gama. Did you mean algorithm.gamma?",
        ),
        ("algorithm.lr: [0.1]", "Did you mean algorithm.learning_rate?"),
        ("algorithm.gamma: [high]", "algorithm.gamma wants a number like 0.5"),
        ("algorithm.gamma: {low: 0.9, high: 1.5}", "algorithm.gamma must be within [0, 1], got 1.5"),
        ("algorithm.gamma: {low: 0.9}", "space.algorithm.gamma wants a list of choices, or low and high"),
        ("algorithm.variance_scaling_mode: [batch, dsact]", "batch or dsac_t"),
        ("market.trading.fee_bp: [0]", "space.market.trading.fee_bp: a search varies keys of algorithm"),
        ("{}", "the space is empty"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_anything_is_trained(space, sentence, search, tmp_path, capsys):
    config = CONFIG.partition("space:")[0] + f"space:\n  {space}\n"
    (tmp_path / "my.yaml").write_text(config)

    with pytest.raises(SystemExit) as end:
        main(search)

    error = capsys.readouterr().err

    assert end.value.code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit):
        main(["--algorithm.gamma=x"])

    assert capsys.readouterr().err.startswith("error: algorithm.gamma wants")


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--trials=0", "trials must be at least 1, got 0"),
        ("--worker=2", "Did you mean workers"),
        ("--run.env_id=CartPole-v1", "only markets have folds"),
        ("--seeds=x", "seeds wants seeds like 0-4"),
        ("--first_validation=2050-01-01", "must lie after the first bar"),
    ],
)
def test_flags_that_cannot_be_are_refused(flag, sentence, search, capsys):
    with pytest.raises(SystemExit):
        main([*search, flag])
    assert sentence in capsys.readouterr().err


def test_without_optuna_a_sentence_names_the_remedy(search, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)

    with pytest.raises(SystemExit):
        main(search)

    assert 'pip install "distributional-ppo[tune]"' in capsys.readouterr().err


def test_the_shipped_space_can_be_searched():
    config = yaml.safe_load((parsers.CONFIGS / "tune.yaml").read_text())
    known = parsers.train_parser().types

    for key, wanted in config["space"].items():
        check_key(key, known)
        distribution_of(key, wanted)

    wanted = "learning_rate n_steps batch_size gamma gae_lambda quantile_huber_kappa variance_scaling_mode ent_coef"
    wanted += " variance_scaling_clip_min variance_scaling_clip_max"

    assert config["space"].keys() >= {"run.n_envs", *(f"algorithm.{name}" for name in wanted.split())}
