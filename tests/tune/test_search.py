"""
A search. Oracles: pandas on the days of validation, medians of means worked by numpy, and the rule that a search knows
nothing of the test period.
"""

import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing import active_children

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from market_regimes.config import MarketConfig, RunConfig, TuneConfig
from market_regimes.evaluate.play import backtest
from market_regimes.run.study import Study
from market_regimes.tune import search as tuning
from market_regimes.tune.folds import folds_before_test
from market_regimes.tune.search import Score, Search, conclude, median_of_means, run_search, work

PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-12-31"), test=("2002-01-01", "2002-04-19")
)


# 521 bars before the test; folds begin in the middle of 2000-01-03 to 2001-12-31.
TUNE = TuneConfig(trials=3, workers=1, seeds="0-1", first_validation="2001-02-01", validation_years=1, embargo_days=0)


SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, device="cpu", gamma=0.9, policy_kwargs=dict(net_arch=[8]))


RUN = RunConfig(total_timesteps=32, n_envs=2, progress_bar=False)


SPACE = {
    "algorithm.learning_rate": {"low": 1e-3, "high": 0.1, "log": True},
    "algorithm.policy_kwargs.n_quantiles": [3, 5],
    "run.n_envs": {"low": 1, "high": 3},
}


@pytest.fixture
def prices(make_prices, tmp_path):
    """A function from a change of prices to the data of a search."""

    def prices(name="own", change=lambda table: table):
        (tmp_path / name).mkdir()
        change(make_prices(600)).to_csv(tmp_path / name / "own.csv", index=False)
        return MarketConfig(str(tmp_path / name / "own.csv"), **PERIODS, episode_bars=60)

    return prices


@pytest.fixture
def here(monkeypatch):
    """One worker, in this process, which spares the start of another."""
    monkeypatch.setattr(tuning, "_run_workers", lambda search, count: work(search, 0))


def search_of(folder, market, tune=TUNE):
    folder.mkdir(exist_ok=True)
    return Search(folder, tune, RUN, SMALL, SPACE, folds_before_test(tune, market))


def facts(search):
    return [(trial.params, trial.user_attrs["scores"], trial.value) for trial in search.study().trials]


def moved(since, until="2100"):
    """Prices doubled day by day in turn."""

    def change(table):
        within = (table["date"] >= since) & (table["date"] < until)
        factor = np.where(within & (table.index % 2 == 0), 1.5, 1.0)
        return table.assign(**{name: table[name] * factor for name in ("open", "high", "low", "close")})

    return change


def test_the_test_period_moves_no_score_and_the_days_of_validation_do(prices, tmp_path, here):
    found = []

    for name, change in (
        ("own", moved("2100")),
        ("test moved", moved("2002-01-01")),
        ("validation moved", moved("2001-12-01", "2002-01-01")),
    ):
        search = search_of(tmp_path / f"search {name}", prices(name, change))
        assert str(search.folds[0].segments["validation"][0].market.dates[-1])[:10] == "2001-12-31"
        run_search(search)
        found.append(facts(search))

    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert found[0][0][0] == found[2][0][0]  # the same values are tried first
    assert found[0][0][1] != found[2][0][1]


def test_a_score_is_the_sharpe_ratio_of_validation_and_a_trials_the_median_of_means(prices, tmp_path, here):
    """Sharpe ratio by pandas: mean over deviation of simple returns, times the root of 261 days."""
    tune = replace(TUNE, seeds="0-2", trials=2, first_validation="2001-03-01", validation_years=1)
    search = search_of(tmp_path / "search", prices(), tune)
    other = folds_before_test(replace(tune, embargo_days=60), prices("b"))
    search = replace(search, folds=[*search.folds, *other, *other])
    run_search(search)

    growths = [trial.user_attrs["growths"] for trial in search.study().trials]
    for (params, scores, value), growth in zip(facts(search), growths, strict=True):
        assert np.shape(scores) == (3, 3)
        means = [(first + second + third) / 3 for first, second, third in scores]
        assert value == pytest.approx(sorted(means)[1], rel=1e-12)
        fold = search.folds[1]
        assert (fold.market.train[1], fold.market.days("validation")) == ("2000-12-30", ("2001-03-01", "2001-12-31"))
        run = replace(RUN, n_envs=params["run.n_envs"])
        algorithm = {**SMALL, "learning_rate": params["algorithm.learning_rate"], "seed": 2}
        algorithm["policy_kwargs"] = {"net_arch": [8], "n_quantiles": params["algorithm.policy_kwargs.n_quantiles"]}
        study = Study(run, fold.market, algorithm, fold.segments)
        study.model.learn(32)
        (frame,) = backtest(fold.segments["validation"], study.trading, study.agent()).values()
        assert len(frame) == len(pd.bdate_range("2001-03-01", "2001-12-31"))
        assert scores[2][1] == pytest.approx(frame["return"].mean() / frame["return"].std() * np.sqrt(261), rel=1e-9)
        assert growth[2][1] == pytest.approx(np.log(frame["equity"].iloc[-1]) / (len(frame) / 261), rel=1e-9)

        # A trial's growth is the median of the means, too.
        means = sorted((first + second + third) / 3 for first, second, third in growth)
        assert median_of_means(growth) == pytest.approx(means[1], rel=1e-12)


def test_an_agent_that_never_holds_anything_scores_0(prices, tmp_path, monkeypatch):
    search = search_of(tmp_path / "search", prices())
    monkeypatch.setattr(Study, "agent", lambda study: lambda known: np.zeros(len(known.position)))
    params = {"algorithm.learning_rate": 0.01}

    assert search.score(params, search.folds[0], 0) == Score(sharpe_ratio=0.0, growth=0.0)


def test_a_resumed_search_gives_up_what_was_running_and_runs_what_is_left(prices, tmp_path, here):
    search = search_of(tmp_path / "search", prices())
    run_search(replace(search, tune=replace(TUNE, trials=1)))
    search.study().ask()  # a process took it and was killed
    run_search(search)

    assert [trial.state.name for trial in search.study().trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]

    run_search(search)

    assert len(search.study().trials) == 4

    best = conclude(search)

    assert best.value == max(trial.value for trial in search.study().trials if trial.value is not None)

    other = search_of(tmp_path / "search", prices("other", moved("2001-06-01")))

    with pytest.raises(ValueError, match="was started on other data"):
        run_search(other)


def test_a_killed_process_loses_its_trial_alone(prices, tmp_path, capfd):
    """Killed while both have one; another trial takes the place of the one that is lost."""
    search = search_of(tmp_path / "search", prices(), replace(TUNE, trials=4, workers=2, seeds="0-7"))
    study, running = search.study(), []

    def kill_one_of_two():
        while len(running) < 2:
            time.sleep(0.02)
            running[:] = [trial.number for trial in study.trials if trial.state.name == "RUNNING"]
        os.kill(active_children()[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one_of_two, daemon=True)
    killer.start()
    run_search(search)
    killer.join(timeout=1)

    assert not killer.is_alive()
    assert not active_children()

    states = [trial.state.name for trial in study.trials]

    assert sorted(states) == ["COMPLETE"] * 4 + ["FAIL"]
    assert states.index("FAIL") in running
    assert "1 of 2 processes ended early: each lost its trial" in capfd.readouterr().out


def test_a_trial_that_diverges_is_counted_and_the_search_goes_on(prices, tmp_path, here, monkeypatch, capsys):
    search, score = search_of(tmp_path / "search", prices()), Search.score

    def diverging(search, params, fold, seed):
        if len(search.study().trials) == 2:
            raise FloatingPointError("policy.weight is NaN\nsecond line")
        return score(search, params, fold, seed)

    monkeypatch.setattr(Search, "score", diverging)
    run_search(search)

    assert [trial.state.name for trial in search.study().trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "trial 1: failed with FloatingPointError: policy.weight is NaN\n" in capsys.readouterr().out


def test_a_search_without_any_score_says_why(prices, tmp_path, here, monkeypatch):
    search = search_of(tmp_path / "search", prices())

    def diverging(search, params, fold, seed):
        raise FloatingPointError("policy.weight is NaN")

    monkeypatch.setattr(Search, "score", diverging)
    run_search(search)

    with pytest.raises(ValueError, match=r"no trial was finished; the first one FloatingPointError: policy\.weight"):
        conclude(search)

    assert len(pd.read_csv(search.folder / "trials.csv")) == 3


def test_a_poor_trial_is_given_up_after_a_seed_and_not_after_the_last(prices, tmp_path, here, monkeypatch, capsys):
    """
    Optuna's median pruner begins after five trials, which have 1 to 5 at the first seed and 11 to 15 at the second. The
    sixth scores 0 at the first; the seventh, at 3.5, is above the median there and below that of both seeds, 8.
    """
    search = search_of(tmp_path / "search", prices(), replace(TUNE, trials=7))

    def score(search, params, fold, seed):
        trial = len(search.study().trials)
        return Score({6: 0.0, 7: 3.5}.get(trial, trial + 10.0 * seed), growth=-1.0)

    monkeypatch.setattr(Search, "score", score)
    run_search(search)
    states = [trial.state.name for trial in search.study().trials]

    assert states == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert "trial 5: given up after 1 of 2 seeds at 0.000\ntrial 6: 3.500\n" in capsys.readouterr().out
    assert (conclude(search).number, conclude(search).value) == (4, 10.0)

    for name in ("history.png", "importance.png"):
        assert (search.folder / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_trial_is_given_up_by_the_median_of_its_seeds_so_far_and_not_by_the_last(prices, tmp_path, here, monkeypatch):
    """
    Five trials score 0, then 20, then 1: medians 0, 10, 1. The sixth scores 12 three times: 12 is above all of these,
    though below 20. The seventh scores 4, then 14: its medians 4 and 9 stay below 10, though 14 does not.
    """
    search = search_of(tmp_path / "search", prices(), replace(TUNE, trials=7, seeds="0-2"))

    def score(search, params, fold, seed):
        trial = len(search.study().trials)
        return Score({6: [12.0, 12.0, 12.0], 7: [4.0, 14.0, 0.0]}.get(trial, [0.0, 20.0, 1.0])[seed], growth=seed)

    monkeypatch.setattr(Search, "score", score)
    run_search(search)
    trials = search.study().trials

    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert [trial.intermediate_values for trial in trials[4:]] == [
        {0: 0.0, 1: 10.0, 2: 1.0},
        {0: 12.0, 1: 12.0, 2: 12.0},
        {0: 4.0, 1: 9.0},
    ]
    assert [trial.value for trial in trials[4:6]] == [1.0, 12.0]


def test_a_resumed_search_draws_other_values_than_before(prices, tmp_path, here):
    """Once after another, as often as it is stopped: with the same values it would learn nothing new."""
    search = search_of(tmp_path / "search", prices())

    for trials in (1, 2, 3):
        run_search(replace(search, tune=replace(TUNE, trials=trials)))

    drawn = [tuple(trial.params.values()) for trial in search.study().trials]

    assert len(set(drawn)) == len(drawn) == 3

    again = search_of(tmp_path / "again", prices("other"))

    for trials in (1, 2, 3):
        run_search(replace(again, tune=replace(TUNE, trials=trials)))

    assert [tuple(trial.params.values()) for trial in again.study().trials] == drawn


def test_no_two_workers_draw_the_same_values(prices, tmp_path):
    drawn = set()

    for number in (0, 1, 2):
        tune = replace(TUNE, trials=1, seeds="0")
        search = search_of(tmp_path / f"search {number}", prices(f"prices {number}"), tune)
        work(search, number)
        drawn.add(tuple(search.study().trials[0].params.values()))

    assert len(drawn) == 3


def test_another_search_in_the_same_folder_is_refused(prices, tmp_path):
    search = search_of(tmp_path / "search", prices())
    with FileLock(search.folder / ".lock"), pytest.raises(ValueError, match="another process is tuning in"):
        run_search(search)
