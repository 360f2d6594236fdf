"""
Which bars score, select and label a run. Oracles: plain loops over the prices of a period, Gymnasium's own episodes,
and prices moved in one period only.
"""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from markets import load_markets

from distributional_ppo import DistributionalPPO
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import buy_and_hold, fitted, informed
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.market.environment import MarketCore
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.run.callback import Terminated, Training
from market_regimes.run.checkpoint import newest_first
from market_regimes.run.study import Study

DAYS = {
    "train": ("2000-01-03", "2001-06-29"),
    "validation": ("2001-07-02", "2001-12-31"),
    "test": ("2002-01-01", "2002-04-19"),
}


ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=16, batch_size=32, n_epochs=1)


@pytest.fixture
def prices(make_prices, tmp_path):
    """Prices with a volatility index of their own, and the file they lie in."""
    table = make_prices(600).assign(volatility_index=10 + 40 * np.random.default_rng(1).random(600) ** 2)
    table.to_csv(tmp_path / "own.csv", index=False)
    return table, tmp_path / "own.csv"


@pytest.fixture
def no_figures(monkeypatch):
    """Where nothing is trained, so that no figure is logged."""
    none = SimpleNamespace(savefig=lambda *args: None)
    monkeypatch.setattr("market_regimes.run.study.picture_of_returns", lambda *args: none, raising=False)


def study_of(data, out=".", market=None, algorithm=None, **run):
    defaults = dict(total_timesteps=128, n_envs=2, eval_every=64, name="run", progress_bar=False, out=str(out))
    markets = MarketConfig(data=str(data), episode_bars=20, **{**DAYS, **(market or {})})
    return Study(RunConfig(**{**defaults, **run}), markets, {**ALGORITHM, **(algorithm or {})})


def holding(study):
    """The study whose agent's mean action is to hold all, and whose draws are wild."""
    with torch.no_grad():
        study.model.policy.action_net.weight.zero_()
        study.model.policy.action_net.bias.fill_(5.0)
        study.model.policy.log_std.fill_(3.0)
    return study


def held(table, period):
    """
    Returns of the days of a period for one who buys at its first open at 1 bp: with the trade d = 1 - 0.0001 d the
    share 1 / 1.0001 of the money buys, and the rest pays.
    """
    days = np.flatnonzero(table["date"].between(*DAYS[period]))
    close, opens = table["close"].to_numpy(), table["open"].to_numpy()
    first = max(days[0], 21)  # 20 returns of history
    returns = [close[first] / opens[first] / 1.0001 - 1]
    for t in range(first + 1, days[-1] + 1):
        returns.append(close[t] / close[t - 1] - 1)
    return np.array(returns), np.arange(first, days[-1] + 1)


def annual_sharpe(returns, bars_per_year):
    mean = sum(returns) / len(returns)
    variance = sum((r - mean) ** 2 for r in returns) / (len(returns) - 1)
    return np.sqrt(bars_per_year) * mean / np.sqrt(variance)


@pytest.mark.parametrize("bars_per_year", [52.0, 252.0, 8760.0])
def test_the_score_is_that_of_the_validation_period_held_throughout(prices, monkeypatch, no_figures, bars_per_year):
    # 60 in runs, and these bars are few.
    monkeypatch.setattr(
        "market_regimes.evaluate.evaluation.MIN_BARS_OF_RATIO", 20
    )  # 60 in runs, and these bars are few
    table, path = prices
    scores, _ = holding(study_of(path, market=dict(bars_per_year=bars_per_year, regime_bounds=(15, 25, 40)))).score()
    returns, days = held(table, "validation")
    equity = np.cumprod(np.concatenate([[1.0], 1 + returns]))
    assert scores["sharpe_ratio"] == pytest.approx(annual_sharpe(returns, bars_per_year), rel=1e-6)
    assert scores["max_drawdown"] == pytest.approx(min(equity / np.maximum.accumulate(equity) - 1), rel=1e-6)
    assert scores["mean_reward"] == pytest.approx(100 * np.log(equity[-1]), rel=1e-6)
    assert scores["growth_per_year"] == pytest.approx(np.log(equity[-1]) / (len(returns) / bars_per_year), rel=1e-6)
    assert scores["growth_buy_and_hold"] == pytest.approx(scores["growth_per_year"], rel=1e-6)
    index = table["volatility_index"].to_numpy()[days]
    for low, high, regime in zip((0, 15, 25, 40), (15, 25, 40, 1e9), DEFAULT_REGIMES.names, strict=True):
        mine = returns[(index >= low) & (index < high)]
        if len(mine) < 20:
            assert scores[f"sharpe_{regime}"] is None
        else:
            assert scores[f"sharpe_{regime}"] == pytest.approx(annual_sharpe(mine, bars_per_year), rel=1e-6)
    assert scores["sharpe_calm"] is not None
    assert scores["sharpe_normal"] is not None


@pytest.mark.parametrize("period", DAYS)
def test_every_period_is_evaluated_on_its_own_days(prices, tmp_path, no_figures, period):
    table, path = prices
    result = holding(study_of(path)).evaluate(tmp_path, period)
    returns, days = held(table, period)
    for strategy in ("agent", "buy and hold"):
        figures = result["joint"][strategy]
        assert figures["bars"] == len(days)
        assert figures["sharpe_ratio"] == pytest.approx(annual_sharpe(returns, 261), rel=1e-6)
        assert figures["total_return"] == pytest.approx(np.prod(1 + returns) - 1, rel=1e-6)
    assert json.loads((tmp_path / f"evaluation-{period}.json").read_text()) == result
    trades = pd.read_csv(tmp_path / f"trades-{period}.csv")
    assert trades["date"].iloc[0] == str(table["date"][days[0]].date())


@pytest.mark.parametrize("moved", DAYS)
def test_only_the_validation_period_selects_and_only_the_training_period_trains(prices, tmp_path, moved):
    """The closes of one period are moved, the index is given and stays."""
    table, path = prices
    rows = {}
    for name in ("as they are", "moved"):
        folder = study_of(path, tmp_path / name).start("")
        rows[name] = pd.read_csv(folder / "progress.csv").drop(columns=["time/fps", "time/time_elapsed"])
        rows[f"{name}, best"] = json.loads((folder / "best.json").read_text())
        days = table.index[table["date"].between(*DAYS[moved])][22:]  # beyond the windows of the period before
        noise = np.exp(np.random.default_rng(2).normal(0, 0.02, len(days)))
        table.loc[days, ["open", "high", "low", "close"]] *= noise[:, None]
        table.to_csv(path, index=False)
    one, two = rows["as they are"], rows["moved"]
    training = [c for c in one if not c.startswith("eval/")]
    assert one[training].equals(two[training]) == (moved != "train")
    if moved != "train":
        scores = [c for c in one if c.startswith("eval/")]
        assert one[scores].equals(two[scores]) == (moved == "test")
        assert (rows["as they are, best"] == rows["moved, best"]) == (moved == "test")


def scripted(study, scores):
    queue = iter(scores)
    study.score = lambda: ({study.score_name: next(queue)}, None)
    return study


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("scores", "patience", "best", "last"),
    [
        ([0.1, 0.9, 0.3, 0.5], None, 2, 4),
        ([-3.0, -1.0, -2.0, -1.5], None, 2, 4),  # below 0: none is no 0
        ([0.5, 0.5, 0.5, 0.5], None, 1, 4),  # of equals the first
        ([0.1, 0.2, 0.3, 0.4], None, 4, 4),  # the last evaluation counts
        ([0.1, 0.2, 0.3, 0.2], 2, 3, 4),
        ([0.5, 0.6, 0.6, 0.1], 2, 2, 4),
        ([0.5, 0.4, 0.6, 0.5], 2, 3, 4),  # a better one is waited for anew
        ([0.5, 0.4, 0.9], 1, 1, 2),
        ([0.5, 0.4, 0.3, 0.9], 2, 1, 3),
        ([None, 0.4, None, 0.3], None, 2, 4),  # no figure is no score
        ([None, None, 0.7, 0.1], 2, None, 2),
        ([None, 0.5, None, 0.6], 2, 4, 4),  # a better one in between begins the count anew
        ([NAN, 0.4, NAN, 0.3], None, 2, 4),
        ([0.2, NAN, 0.4, NAN], None, 3, 4),
        ([0.2, NAN, NAN, 0.9], 2, 1, 3),
        ([NAN, NAN, NAN, NAN], None, None, 4),
        ([INF, 0.4, 0.3, 0.2], None, 2, 4),
        ([-INF, -0.4, -0.3, -0.5], None, 3, 4),
    ],
)
def test_the_best_by_validation_is_kept_and_patience_counts_from_it(prices, tmp_path, scores, patience, best, last):
    """An evaluation every 32 steps, the length of a rollout."""
    _, path = prices
    folder = scripted(study_of(path, tmp_path, eval_every=32, patience=patience), scores).start("")
    assert int(newest_first(folder)[0].name) == 32 * last
    if best is None:
        assert not (folder / "best.json").exists()
    else:
        assert json.loads((folder / "best.json").read_text()) == {
            "step": 32 * best,
            "eval/sharpe_ratio": scores[best - 1],
        }
    expected = {"best": 32 * (best or last), "last": 32 * last}
    for which, step in expected.items():
        reader = study_of(path, tmp_path, eval_every=32, patience=patience)
        reader.load(folder, which)
        assert reader.step == step
    reader.load(folder)  # best, where nothing is said
    assert reader.step == expected["best"]


@pytest.mark.parametrize(
    ("eval_every", "checkpoint_every", "evaluated", "saved"),
    [
        (32, 32, [32, 64, 96, 128, 160], [0, 32, 64, 96, 128, 160]),
        (64, 96, [64, 128, 160], [0, 96, 160]),
        (33, 65, [64, 128, 160], [0, 96, 160]),  # at the first rollout from there on
        (50, 1000, [64, 128, 160], [0, 160]),
        (1, 1, [32, 64, 96, 128, 160], [0, 32, 64, 96, 128, 160]),
        (1000, 64, [160], [0, 64, 128, 160]),
    ],
)
def test_evaluations_and_checkpoints_fall_where_they_are_due(
    prices, tmp_path, monkeypatch, eval_every, checkpoint_every, evaluated, saved
):
    """Rollouts of 16 steps of 2 copies; no score is a better one, which would be saved besides."""
    _, path = prices
    monkeypatch.setattr("market_regimes.run.checkpoint.prune", lambda *args: None)
    every = dict(eval_every=eval_every, checkpoint_every=checkpoint_every)
    study, seen = study_of(path, tmp_path, total_timesteps=160, **every), []

    def score():
        seen.append(study.model.num_timesteps)
        return {study.score_name: None, "max_drawdown": float(len(seen))}, None

    study.score = score
    folder = study.start("")
    assert seen == evaluated
    assert sorted(int(path.name) for path in newest_first(folder)) == saved
    rows = pd.read_csv(folder / "progress.csv")
    assert rows["eval/max_drawdown"].dropna().tolist() == list(range(1, len(evaluated) + 1))
    assert rows["time/total_timesteps"].dropna().tolist() == [32, 64, 96, 128, 160]


def agent_with(study, positions):
    """The study whose agent takes these positions, one per bar, whatever it sees."""

    def agent():
        steps = iter([*positions, 0.0])

        def decide(known):
            return np.full(len(known.bar), next(steps))

        return decide

    study.agent = agent
    return study


@pytest.mark.parametrize(
    ("bars_per_year", "seed", "share"), [(52.0, 0, 0.2), (252.0, 1, 0.4), (252.0, 2, 0.6), (8760.0, 3, 0.8)]
)
def test_the_share_of_random_timings_is_that_of_all_circular_shifts(
    prices, tmp_path, no_figures, bars_per_year, seed, share
):
    """Free trades at the close just seen: the return is position times change. 100 shifts are drawn of all."""
    table, path = prices
    _, days = held(table, "test")
    close = table["close"].to_numpy()
    changes = close[days] / close[days - 1] - 1
    rng = np.random.default_rng(seed)
    candidates = (rng.random((200, len(days))) < 0.5).astype(float)
    sharpes = np.array([annual_sharpe(positions * changes, bars_per_year) for positions in candidates])
    positions = candidates[np.argsort(sharpes)[int(200 * share)]]
    shifts = [annual_sharpe(np.roll(positions, shift) * changes, bars_per_year) for shift in range(len(days))]
    expected = np.mean(np.array(shifts) < annual_sharpe(positions * changes, bars_per_year) - 1e-9)
    assert 0.1 < expected < 0.9
    free = dict(bars_per_year=bars_per_year, trading=TradingCosts(fee_bp=0.0, fill="close"))
    result = agent_with(study_of(path, market=free), positions).evaluate(tmp_path, "test")
    assert result["share_of_random_timings_below_agent"] == pytest.approx(expected, abs=0.15)  # 3 standard errors


def content(rms):
    return rms.mean.tobytes(), rms.var.tobytes(), np.float64(rms.count).tobytes()


@pytest.mark.parametrize(
    ("env_id", "how"),
    [
        *(("market", how) for how in ("score", "agent", "evaluate train", "evaluate validation", "evaluate test")),
        *(("CartPole-v1", how) for how in ("score", "evaluate test")),
    ],
)
def test_no_evaluation_moves_the_statistics_or_the_training_environment(prices, tmp_path, no_figures, env_id, how):
    _, path = prices
    study = study_of(path, tmp_path, env_id=env_id, normalize_observations=True)
    study.model.learn(64)
    normalizer = study.model.get_vec_normalize_env()
    last = np.array(study.model._last_obs)
    agents = [getattr(study.core, name).copy() for name in ("bar", "equity", "position")] if study.core else []
    before = content(normalizer.obs_rms)
    if how == "score":
        study.score()
    elif how == "agent":
        study.agent()(study.core.known())
    else:
        study.evaluate(tmp_path, how.split()[1])
    assert content(normalizer.obs_rms) == before
    assert normalizer.training
    assert np.array_equal(last, study.model._last_obs)
    for name, array in zip(("bar", "equity", "position"), agents, strict=False):
        assert np.array_equal(getattr(study.core, name), array)


@pytest.mark.parametrize("env_id", ["market", "CartPole-v1"])
def test_the_statistics_count_the_steps_of_training_only(prices, tmp_path, env_id):
    """128 steps, the first observations of 2 copies, and SB3's 0.0001, whatever was evaluated on the way."""
    _, path = prices
    study = study_of(path, tmp_path, env_id=env_id, normalize_observations=True, eval_every=32)
    study.start("")
    assert study.model.get_vec_normalize_env().obs_rms.count == pytest.approx(128 + 2 + 1e-4, abs=1e-9)


def test_the_agent_sees_observations_scaled_by_the_statistics_of_training(prices, tmp_path):
    _, path = prices
    study = study_of(path, tmp_path, normalize_observations=True)
    study.model.learn(64)
    rms = study.model.get_vec_normalize_env().obs_rms
    predict, seen = study.model.predict, []
    study.model.predict = lambda observations, *rest, **options: (
        seen.append(observations) or predict(observations, *rest, **options)
    )
    core = MarketCore(study.segments["validation"], 1, episode_bars=None)
    raw = core.observations()
    study.agent()(core.known())
    assert seen[0] == pytest.approx(np.clip((raw - rms.mean) / np.sqrt(rms.var + 1e-8), -10, 10), abs=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_other_environments_are_scored_on_new_episodes_of_the_mean_action(prices, tmp_path, normalize):
    """20 episodes: 4 in each of 5 environments seeded from 10,000 on; played here with Gymnasium's own functions."""
    study = study_of(prices[1], tmp_path, env_id="CartPole-v1", normalize_observations=normalize)
    study.model.learn(128)
    normalizer, returns = study.model.get_vec_normalize_env(), []
    for seed in range(10_000, 10_005):
        env = gym.make("CartPole-v1")
        for episode in range(4):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            total, done = 0.0, False
            while not done:
                if normalizer is not None:
                    rms = normalizer.obs_rms
                    observation = np.clip((observation - rms.mean) / np.sqrt(rms.var + 1e-8), -10, 10)
                with torch.no_grad():
                    logits = study.model.policy.get_distribution(
                        torch.as_tensor(observation, dtype=torch.float32)[None]
                    )
                observation, reward, terminated, truncated, _ = env.step(int(logits.distribution.probs.argmax()))
                total, done = total + reward, terminated or truncated
            returns.append(total)
    assert study.score()[0] == {"mean_reward": np.mean(returns)}
    figures = study.evaluate(tmp_path, "test")["joint"]["agent"]
    assert figures == {"mean_reward": np.mean(returns), "std_reward": pytest.approx(np.std(returns))}


@pytest.mark.parametrize("env_id", ["market", "CartPole-v1"])
def test_the_seed_decides_the_episodes_and_no_two_copies_share_them(prices, env_id):
    first = {}
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        study = study_of(prices[1], env_id=env_id, algorithm=dict(seed=seed), n_envs=4)
        first[name] = study.model.env.reset()
        assert len(np.unique(first[name], axis=0)) == 4
    assert np.array_equal(first["one"], first["again"])
    assert not np.array_equal(first["one"], first["other"])


@pytest.fixture(scope="module")
def full(make_prices, tmp_path_factory):
    """A file of 60 bars with every column there is."""
    table = make_prices(60).assign(symbol="A", volatility_index=20 + np.arange(60) / 7)
    table["adjusted_close"] = table["close"] * np.linspace(0.9, 1.0, 60)
    table["date"] = table["date"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return table, tmp_path_factory.mktemp("full") / "a.csv"


def fingerprints(table, path):
    table.to_csv(path, index=False)
    return [market.fingerprint() for market in load_markets([str(path)], off_grid="keep")]  # of a second, too


@pytest.mark.parametrize("column", ["open", "close", "adjusted_close", "volatility_index", "date"])
def test_a_change_of_any_column_changes_the_fingerprint(full, column):
    """A change of one in a billion, or to a free Saturday, in first, middle and last bars."""
    table, path = full
    before = fingerprints(table, path)
    assert before == fingerprints(table.copy(), path)
    fridays = (4, 9, 29, 49, 54)  # the first day is a Monday
    for row in fridays if column == "date" else (0, 1, 30, 58, 59):
        changed = table.copy()
        if column == "date":
            day = pd.Timestamp(changed.loc[row, "date"])
            assert day.weekday() == 4
            changed.loc[row, "date"] = str(day + pd.Timedelta(days=1))
        else:
            changed.loc[row, column] = changed.loc[row, column] * (1 + 1e-9)
        assert fingerprints(changed, path) != before, row


@pytest.mark.parametrize("field", ["open", "close", "index", "dates"])
def test_a_change_of_any_bar_changes_the_fingerprint(full, field):
    table, path = full
    table.to_csv(path, index=False)
    (market,) = load_markets([str(path)])
    seen = {tuple(market.fingerprint().items())}
    for bar in range(60):
        array = getattr(market, field).copy()
        array[bar] = array[bar] + np.timedelta64(1, "s") if field == "dates" else np.nextafter(array[bar], 0)
        seen.add(tuple(replace(market, **{field: array}).fingerprint().items()))
    assert len(seen) == 61


@pytest.mark.parametrize("column", ["open", "close", "volatility_index"])
@pytest.mark.parametrize("symbol", ["A", "B"])
def test_a_run_is_neither_resumed_nor_evaluated_on_other_data(prices, tmp_path, column, symbol):
    table, path = prices
    both = pd.concat([table.assign(symbol="A"), table.assign(symbol="B")], ignore_index=True)
    both.to_csv(path, index=False)
    folder = study_of(path, tmp_path, total_timesteps=32).start("")
    study_of(path, tmp_path).load(folder)
    row = both.index[both["symbol"] == symbol][-1]  # a bar of the test period
    both.loc[row, column] *= 1.0001
    both.to_csv(path, index=False)
    refused = study_of(path, tmp_path)
    month = str(both["date"].iloc[row])[:7]
    with pytest.raises(ValueError, match=f"another fingerprint: bars of {symbol} changed in {month};"):
        refused.resume(folder, "")
    assert refused.model.num_timesteps == 0  # before any training, not after it
    with pytest.raises(ValueError, match="fingerprint"):
        study_of(path, tmp_path).load(folder)


def test_another_zone_of_the_same_dates_is_other_data(prices, tmp_path):
    """Instants move by five or six hours, and dates stay. Runs of earlier versions did not record it."""
    _, path = prices
    folder = study_of(path, tmp_path, market={"zone": "UTC"}, total_timesteps=32).start("")
    study_of(path, tmp_path, market={"zone": "+00:00"}).load(folder)
    other = study_of(path, tmp_path, market={"zone": "America/New_York"})
    for use in (lambda: other.load(folder), lambda: other.resume(folder, "")):
        with pytest.raises(ValueError, match=r"another time zone: the bars of own have the same dates"):
            use()

    content = json.loads((folder / "run.json").read_text())
    del content["data"]["own"]["offsets"]
    (folder / "run.json").write_text(json.dumps(content))
    other.load(folder)


def test_a_file_may_grow_and_move(prices, tmp_path):
    table, path = prices
    folder = study_of(path, tmp_path, total_timesteps=32).start("")
    later = table.assign(date=table["date"] + (table["date"].iloc[-1] - table["date"].iloc[0]) + pd.Timedelta(days=1))
    moved = tmp_path / "elsewhere.csv"
    pd.concat([table, later]).to_csv(moved, index=False)
    study_of(moved, tmp_path).load(folder)
    pd.concat([table.iloc[1:], later]).to_csv(moved, index=False)
    with pytest.raises(ValueError, match="changed in"):
        study_of(moved, tmp_path).load(folder)


def test_bounds_of_the_regimes_are_quantiles_of_the_training_period_of_each_symbol(prices, tmp_path):
    table, path = prices
    other = table.assign(symbol="B", volatility_index=table["volatility_index"] * 2 + 1)
    pd.concat([table.assign(symbol="A"), other]).to_csv(path, index=False)
    study = study_of(path, tmp_path, total_timesteps=32)
    folder = study.start("")
    inside = table["date"].between(*DAYS["train"]).to_numpy()
    written = json.loads((folder / "run.json").read_text())["data"]
    for i, (symbol, rows) in enumerate((("A", table), ("B", other))):
        index = rows["volatility_index"].to_numpy()
        bounds = np.quantile(index[inside], [0.383, 0.898, 0.986])
        assert np.abs(bounds - np.quantile(index[~inside], [0.383, 0.898, 0.986])).min() > 1e-3
        assert written[symbol]["regime_bounds"] == pytest.approx(bounds)
        for period in DAYS:
            market = study.segments[period][i].market
            assert market.regimes.bounds == pytest.approx(bounds)
            assert np.array_equal(market.regime, np.searchsorted(bounds, index, side="right"))
        labels = study.core.regime[600 * i : 600 * (i + 1)]
        assert np.array_equal(labels, np.searchsorted(bounds, index, side="right"))


@pytest.mark.parametrize("period", DAYS)
def test_observations_of_every_period_are_scaled_by_the_training_period(prices, period):
    table, path = prices
    study = study_of(path)
    core = MarketCore(study.segments[period], 1, episode_bars=None)
    returns = np.diff(np.log(table["close"]), prepend=np.log(table["close"][0]))
    train = np.flatnonzero(table["date"].between(*DAYS["train"]))[20:]  # the first bars are the warm-up
    _, days = held(table, period)
    last_known = days[0] - 1
    window = (returns[last_known - 19 : last_known + 1] - returns[train].mean()) / returns[train].std()
    assert core.observations()[0, :20] == pytest.approx(window, rel=1e-4, abs=1e-5)
    assert core.observations()[0, 21] == pytest.approx(table["volatility_index"][last_known] / 20, rel=1e-6)


def small_study(out, env_id="market", **run):
    defaults = dict(total_timesteps=512, n_envs=2, eval_every=128, name="run", progress_bar=False)
    algorithm = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=64, batch_size=32, n_epochs=1)
    return Study(RunConfig(env_id, out=str(out), **{**defaults, **run}), MarketConfig(), algorithm)


def test_scalars_by_regime_are_logged_of_every_rollout_before_its_update(tmp_path, read_scalars, monkeypatch):
    """Of the values and returns that the rollout holds, on the regimes of the observations' own index."""
    study = small_study(tmp_path, total_timesteps=1536, n_envs=8, eval_every=10_000)
    train, expected = DistributionalPPO.train, []

    def note_and_train(model):
        buffer = model.rollout_buffer
        index = 20 * buffer.observations[:, :, 21].astype(np.float64)
        expected.append({"rollout/volatility_index": index.mean()})
        for i, name in enumerate(DEFAULT_REGIMES.names):
            mine = np.digitize(index, [15, 25, 40]) == i
            values, returns = (a[mine].astype(np.float64) for a in (buffer.values, buffer.returns))
            if mine.sum() >= 20:
                expected[-1][f"train/value_error_{name}"] = np.sqrt(np.mean((values - returns) ** 2)) / np.std(returns)
        train(model)

    monkeypatch.setattr(DistributionalPPO, "train", note_and_train)
    study.score = lambda: ({study.score_name: None}, None)
    scalars = read_scalars(study.start(""))
    assert len(expected) == 3  # rollouts of 512 steps
    for tag in ("rollout/volatility_index", *(f"train/value_error_{name}" for name in DEFAULT_REGIMES.names)):
        logged = {point.step: point.value for point in scalars.get(tag, [])}
        wanted = {512 * (i + 1): row[tag] for i, row in enumerate(expected) if tag in row}
        assert logged == pytest.approx(wanted, rel=1e-4), tag
    assert {"train/value_grad_norm_calm", "train/value_grad_norm_normal"} <= scalars.keys()


def scored(study, scores):
    """Let the study's evaluations find these scores, one after the other."""
    queue = iter(scores)
    study.score = lambda: ({study.score_name: next(queue)}, None)
    return study


def test_the_best_model_is_kept_and_loaded(tmp_path):
    study = scored(small_study(tmp_path), [0.1, 0.9, None, 0.3])
    kept = {}
    save = Training._save

    def spy(self):
        kept[self.num_timesteps] = {k: v.clone() for k, v in self.model.policy.state_dict().items()}
        save(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_save", spy)
        folder = study.start("")
    assert json.loads((folder / "best.json").read_text()) == {"step": 256, "eval/sharpe_ratio": 0.9}
    assert [int(p.name) for p in newest_first(folder)][-1] == 256
    for which, step in (("best", 256), ("last", 512)):
        study.load(folder, which)
        assert all(torch.equal(v, kept[step][k]) for k, v in study.model.policy.state_dict().items())
    exported = DistributionalPPO.load(folder / "model.zip", device="cpu").policy.state_dict()
    assert all(torch.equal(v, kept[256][k]) for k, v in exported.items())


def test_a_longer_run_finds_the_best_model_the_shorter_one_replaced(tmp_path):
    """The short run ends off the grid of evaluations, and its last model is its best; at once it never was one."""
    long = dict(total_timesteps=1024, eval_every=256)
    scores = {256: 0.9, 512: 0.1, 640: 1.5, 768: 0.2, 1024: 0.3}

    def by_step(study):
        study.score = lambda: ({study.score_name: scores[study.model.num_timesteps]}, None)
        return study

    at_once = by_step(small_study(tmp_path / "at once", **long)).start("")
    halves = by_step(small_study(tmp_path / "halves", **{**long, "total_timesteps": 640})).start("")
    assert json.loads((halves / "best.json").read_text())["step"] == 640
    by_step(small_study(tmp_path / "halves", **long)).resume(halves, "")
    assert (halves / "best.json").read_text() == (at_once / "best.json").read_text()
    models = [DistributionalPPO.load(folder / "model.zip").policy.state_dict() for folder in (at_once, halves)]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_a_run_that_stops_early_says_so(tmp_path, capsys):
    scored(small_study(tmp_path, patience=2, total_timesteps=10_000), [0.5, 0.4, 0.3]).start("")
    assert "stopped early: no better evaluation in 2" in capsys.readouterr().out


def test_a_request_to_terminate_names_the_folder_too(tmp_path):
    study = small_study(tmp_path)
    score = study.score

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGTERM)
        return score()

    study.score = score_and_ask
    with pytest.raises(Terminated) as stop:
        study.start("")
    assert stop.value.args == (tmp_path / "run",)


def test_asked_to_stop_the_run_is_saved_and_says_where(tmp_path):
    study = small_study(tmp_path)

    score = study.score

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGINT)
        return score()

    study.score = score_and_ask
    with pytest.raises(KeyboardInterrupt) as stop:
        study.start("")
    assert stop.value.args == (tmp_path / "run",)
    assert int(newest_first(tmp_path / "run")[0].name) == 128


def test_asked_during_the_last_evaluation_the_run_does_not_go_on(tmp_path):
    study = small_study(tmp_path, eval_every=10_000)

    def score_and_ask():
        os.kill(os.getpid(), signal.SIGINT)
        return {study.score_name: 0.5}, None

    study.score = score_and_ask
    with pytest.raises(KeyboardInterrupt):
        study.start("")
    assert json.loads((tmp_path / "run" / "best.json").read_text())["step"] == 512


SHORT = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1, gamma=0.95)


SYNTHETIC = MarketConfig(
    data="synthetic",
    train=("1999-01-04", "2000-12-29"),
    validation=("2001-01-01", "2001-06-29"),
    test=("2001-07-02", "2001-12-31"),
)


def sharpes(segments):
    costs = TradingCosts()
    rules = (buy_and_hold, fitted(segments, costs), informed(segments, costs))
    return [figures(joint(backtest(segments, costs, rule)), 252)["sharpe_ratio"] for rule in rules]


def growths(segments):
    """Log of the final equity over years of 252 bars."""
    costs = TradingCosts()
    rules = (buy_and_hold, fitted(segments, costs), informed(segments, costs))
    frames = [joint(backtest(segments, costs, rule)) for rule in rules]
    return [np.log(frame["equity"].iloc[-1]) / (len(frame) / 252) for frame in frames]


@pytest.fixture(scope="module")
def synthetic_study():
    return Study(RunConfig(total_timesteps=256), SYNTHETIC, SHORT)


def test_an_evaluation_while_training_logs_the_rules_and_the_share_of_the_way_to_the_informed_one(synthetic_study):
    scores, _ = synthetic_study.score()
    held, learnt, known = sharpes(synthetic_study.segments["validation"])
    assert scores["sharpe_buy_and_hold"] == pytest.approx(held)
    assert scores["sharpe_fitted_rule"] == pytest.approx(learnt)
    assert scores["sharpe_informed_rule"] == pytest.approx(known)
    assert known > held
    assert scores["share_of_attainable"] == pytest.approx((scores["sharpe_ratio"] - held) / (known - held))


def test_an_evaluation_while_training_logs_growth_beside_every_sharpe_ratio(synthetic_study):
    scores, _ = synthetic_study.score()

    rules = ("buy_and_hold", "fitted_rule", "informed_rule")
    expected = growths(synthetic_study.segments["validation"])
    assert [scores[f"growth_{rule}"] for rule in rules] == pytest.approx(expected)

    held, _, known = expected
    assert known > held
    share = (scores["growth_per_year"] - held) / (known - held)
    assert scores["share_of_attainable_growth"] == pytest.approx(share)
    assert scores["share_of_attainable_growth"] != pytest.approx(scores["share_of_attainable"])


def test_the_evaluation_has_the_rules_by_name_and_prints_them(synthetic_study, tmp_path, capsys):
    result = synthetic_study.evaluate(tmp_path, "test")
    held, learnt, known = sharpes(synthetic_study.segments["test"])
    found = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert list(found["joint"]) == [
        "agent",
        "buy and hold",
        "equal weights",
        "volatility target",
        "fitted rule",
        "informed rule",
        "random timing",
    ]
    for name, sharpe in (("buy and hold", held), ("fitted rule", learnt), ("informed rule", known)):
        assert found["joint"][name]["sharpe_ratio"] == pytest.approx(sharpe)
    share = (found["joint"]["agent"]["sharpe_ratio"] - held) / (known - held)
    assert found["share_of_attainable"] == pytest.approx(share)
    print_summary(result, "title")
    printed = capsys.readouterr().out
    assert f"of the way from buy-and-hold's Sharpe ratio to the informed rule's: {100 * share:.1f} %" in printed
    print_seeds({0: result, 1: result}, "title")
    line = f"Sharpe ratio of the fitted rule {learnt:.2f}, of the informed rule {known:.2f}"
    assert line in capsys.readouterr().out


def test_a_cell_has_the_rules_and_their_days(synthetic_study):
    cell = Cell("synthetic", "fold", "baseline", 0, RunConfig(total_timesteps=512), SYNTHETIC, SHORT)
    result = run_cell(cell)
    held, learnt, known = sharpes(synthetic_study.segments["test"])
    found = result["figures"]
    assert [found[f"{name}_sharpe"] for name in ("hold", "fitted", "informed")] == pytest.approx([held, learnt, known])
    assert found["test_attained"] == pytest.approx((found["test_sharpe"] - held) / (known - held))
    assert {"hold", "fitted", "informed"} <= set(result["daily"])


def test_where_nobody_knows_the_law_there_is_no_informed_rule():
    market = MarketConfig(data="sp500", train=SYNTHETIC.train, test=SYNTHETIC.test)
    result = run_cell(Cell("sp500", "fold", "baseline", 0, RunConfig(total_timesteps=512), market, SHORT))
    assert result["figures"]["test_attained"] is None
    assert "informed_sharpe" not in result["figures"]
    assert "informed" not in result["daily"]
    assert "fitted" in result["daily"]
