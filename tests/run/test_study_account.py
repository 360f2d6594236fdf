"""Training on the rows of accounts, from the run folder to the order list; oracle: SB3's ``predict`` bar by bar."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import PERIODS_OF_600_BARS, errors_of

from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import MarketConfig, PortfolioConfig, RunConfig, TradingCosts
from market_regimes.evaluate.evaluation import evaluate
from market_regimes.evaluate.portfolio import Bench
from market_regimes.evaluate.question import Question
from market_regimes.run.agent import Agent, critic_of
from market_regimes.run.study import Study

SYMBOLS = ["A", "B", "C"]
LIMITS = PortfolioConfig(cash="shared", training="account", weight_max=0.5)
ALGORITHM = dict(seed=0, device="cpu", n_steps=32, batch_size=48, n_epochs=1, learning_rate=0.01)
STATES = ("actor_hidden", "actor_cell", "critic_hidden", "critic_cell")  # of the LSTMs, as an export names them
RECURRENT = {**ALGORITHM, "policy": "MlpLstmPolicy", "policy_kwargs": dict(lstm_hidden_size=8)}


@pytest.fixture(scope="module")
def table(make_prices):
    return pd.concat([make_prices(600, seed=i).assign(symbol=name) for i, name in enumerate(SYMBOLS)])


@pytest.fixture(scope="module")
def prices(table, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "prices.csv"
    table.to_csv(path, index=False)
    return str(path)


def study_of(prices, out, algorithm=ALGORITHM, name="run", **settings):
    run = dict(total_timesteps=384, n_envs=2, eval_every=192, checkpoint_every=192, progress_bar=False)
    run |= dict(out=str(out), name=name)
    market = MarketConfig(prices, episode_bars=60, portfolio=LIMITS, **PERIODS_OF_600_BARS)
    return Study(RunConfig(**{**run, **settings}), market, algorithm)


@pytest.fixture(scope="module", params=["feed-forward", "recurrent"])
def trained(request, prices, tmp_path_factory):
    algorithm = RECURRENT if request.param == "recurrent" else ALGORITHM
    study = study_of(prices, tmp_path_factory.mktemp("runs"), algorithm)
    return study, study.start()


def test_rows_are_accounts_times_symbols(prices, tmp_path):
    study = study_of(prices, tmp_path)

    assert study.model.n_envs == 6
    assert study.model.observation_space.shape == (2 * 23 + 1,)  # 20 returns, volatility, index, position


def test_the_agent_decides_from_the_account_as_predict_does_row_by_row(trained):
    study, folder = trained
    agent = Agent.load(folder)
    bench = Bench.of(study.segments["test"], study.trading)

    evaluation = evaluate(agent.rule(), study.segments["test"], study.trading, portfolio=study.portfolio)

    account = bench.account(LIMITS)
    states = None
    for row in range(30):
        seen = bench.observations.at(account.row, account.weights)[0]
        starts = np.full(3, row == 0)
        actions, states = agent.model.predict(seen, states, starts, deterministic=True)
        targets = study.trading.targets(actions)
        np.testing.assert_array_equal(evaluation.played.targets.iloc[row], targets)
        account.step(targets[None])
        np.testing.assert_array_equal(evaluation.played.closing_weights.iloc[row], account.weights[0])
    assert len(np.unique(evaluation.played.targets)) > 3


def test_validation_scores_the_account_and_logs_it(trained, read_scalars):
    study, folder = trained
    study.load(folder, "last")
    scores, _ = study.score()

    evaluation = evaluate(study.agent(), study.segments["validation"], study.trading, portfolio=study.portfolio)
    assert scores["sharpe_ratio"] == evaluation.sharpe_ratio
    logged = read_scalars(folder)["eval/sharpe_ratio"]
    assert logged[-1].value == pytest.approx(scores["sharpe_ratio"])


def test_an_evaluation_writes_the_files_of_an_account(trained, tmp_path):
    study, folder = trained
    agent = Agent.load(folder)

    result = agent.evaluate(study.segments["test"], tmp_path, "test")

    names = {path.name for path in tmp_path.iterdir()}
    assert {"account-test.csv", "weights-test.png", "positions-test.csv", "returns-test.png"} <= names
    account = pd.read_csv(tmp_path / "account-test.csv")
    assert account["equity"].iloc[-1] == pytest.approx((1 + account["return"]).prod())
    assert set(result["symbols"]) == set(SYMBOLS)
    assert set(result["account"]["contributions"]) == set(SYMBOLS)
    assert result["robustness"]["sharpe_ratio_one_bar_later"] is not None
    json.dumps(result)

    # One bar later: the same targets, each a row later, in an account played here.
    evaluation = evaluate(agent.rule(), study.segments["test"], study.trading, portfolio=LIMITS)
    account = evaluation.bench.account(LIMITS)
    targets = evaluation.played.targets.to_numpy()
    growth = [account.step(row[None]).growth[0] for row in np.concatenate([np.full((1, 3), np.nan), targets[:-1]])]
    returns = np.array(growth) - 1
    later = np.sqrt(evaluation.rows_per_year) * returns.mean() / returns.std(ddof=1)
    assert result["robustness"]["sharpe_ratio_one_bar_later"] == pytest.approx(later, rel=0.01)
    assert abs(later / result["joint"]["agent"]["sharpe_ratio"] - 1) > 0.05


def test_the_critic_foretells_contributions(trained):
    """A loop backwards over each symbol's part of the log growth, completed by the critic's last value."""
    study, folder = trained
    agent = Agent.load(folder)
    critic = critic_of(agent.model)
    evaluation = evaluate(
        agent.rule(), study.segments["test"], study.trading, critic, portfolio=replace(LIMITS, weight_max=0.4)
    )

    predicted, realised = evaluation.predicted_and_realised

    rows = len(evaluation.played.account)
    growth = np.log1p(evaluation.played.account["return"].to_numpy())
    simple = evaluation.played.account["return"].to_numpy()
    assert predicted.shape[0] == realised.shape[0] == 3 * rows
    assert sum(len(frame) for frame in evaluation.predicted_frames.values()) == 3 * rows
    for k, symbol in enumerate(SYMBOLS):
        part = evaluation.played.contributions[symbol].to_numpy()
        value = None
        for t in reversed(range(rows)):
            reward = 100 * part[t] * growth[t] / simple[t] if simple[t] else 0.0
            if value is None:
                weights = evaluation.played.closing_weights.to_numpy()
                seen = np.concatenate([np.zeros((1, 3)), weights])
                observations = evaluation.bench.observations.at(np.arange(rows + 1), seen)[:, k]
                value = float(critic.quantiles(observations)[-1].mean())
            value = reward + critic.gamma * value
            assert realised[k * rows + t] == pytest.approx(value, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("last", [450, 500])
def test_orders_have_the_weights_that_an_evaluation_decides(trained, table, last):
    _, folder = trained
    agent = Agent.load(folder)
    days = table["date"].drop_duplicates().to_numpy()

    # The evaluation sees one bar more, which fills the orders.
    frames = agent.backtest(table[table["date"].isin(days[: last + 1])])
    decided = {symbol: frame["target"].iloc[-1] / 3 for symbol, frame in frames.items()}
    orders = agent.portfolio(table[table["date"].isin(days[:last])], equity=100_000.0)

    assert orders.table["target"].to_dict() == pytest.approx(decided, rel=1e-12, abs=1e-15)
    assert orders.table["target"].max() <= 0.5 + 1e-9


def test_another_number_of_symbols_can_be_traded(trained, table):
    _, folder = trained
    two = table[table["symbol"] != "C"]

    frames = Agent.load(folder).backtest(two)

    assert set(frames) == {"A", "B"}
    assert max(frame["trade"].abs().sum() for frame in frames.values()) > 0


def test_a_signal_of_one_symbol_is_refused_with_what_to_do(trained, prices, capsys):
    _, folder = trained

    error = errors_of(capsys, "signal", str(folder), "--data", prices)

    assert "market.portfolio.training=account" in error
    assert "--equity" in error


@pytest.mark.parametrize("algorithm", [ALGORITHM, RECURRENT], ids=["feed-forward", "recurrent"])
def test_a_resumed_run_ends_as_the_one_that_was_left_alone(prices, tmp_path, algorithm):
    whole = study_of(prices, tmp_path, algorithm, "whole", total_timesteps=768)
    whole.start("")
    half = study_of(prices, tmp_path, algorithm, "half")
    folder = half.start("")

    resumed = study_of(prices, tmp_path, algorithm, "half", total_timesteps=768)
    resumed.resume(folder, "")

    for name, expected in whole.model.policy.state_dict().items():
        assert (resumed.model.policy.state_dict()[name] == expected).all(), name
    for name in whole.core.STATE:
        np.testing.assert_array_equal(getattr(resumed.core.agents, name), getattr(whole.core.agents, name))


def test_a_cell_of_a_comparison_measures_the_account(prices):
    market = MarketConfig(prices, episode_bars=60, portfolio=LIMITS, **PERIODS_OF_600_BARS)
    cell = Cell("prices", "fold", "rows", 0, RunConfig(total_timesteps=384, n_envs=2), market, ALGORITHM)

    figures = run_cell(cell)["figures"]

    names = {"value_loss", "explained_variance", "test_sharpe", "test_calibration_error", "test_explained_variance"}
    assert names <= {name for name, value in figures.items() if value is not None}


def test_separate_cash_has_no_account_to_train_for():
    with pytest.raises(ValueError, match=r"market\.portfolio\.training needs market\.portfolio\.cash=shared"):
        PortfolioConfig(training="account")


def test_another_training_is_refused():
    with pytest.raises(ValueError, match="must be 'symbols' or 'account', got 'rows'"):
        PortfolioConfig(cash="shared", training="rows")


def test_costs_are_those_of_the_account(trained):
    """An order of all that costs 100 basis points takes about 1 % of its value."""
    study, _ = trained
    bench = Bench.of(study.segments["test"], TradingCosts(fee_bp=100.0))
    account = bench.account(LIMITS)

    step = account.step(np.array([[0.3, 0.3, 0.3]]))

    assert step.cost.sum() == pytest.approx(0.009 / 1.01, rel=0.02)


def test_an_export_makes_the_rows_itself_and_decides_as_the_account_does(trained, tmp_path):
    """onnxruntime against the account played bar by bar; the graph gets each symbol's numbers and the mask."""
    runtime = pytest.importorskip("onnxruntime")
    study, folder = trained
    agent = Agent.load(folder)
    agent.export(tmp_path / "agent.onnx")
    session = runtime.InferenceSession(str(tmp_path / "agent.onnx"))
    names = [each.name for each in session.get_inputs()]
    bench = Bench.of(study.segments["test"], study.trading)
    account = bench.account(LIMITS)
    states = {each.name: np.zeros([1, 1, 3, 8], np.float32) for each in session.get_inputs() if each.name in STATES}
    rule = agent.rule().on(bench)

    for row in range(12):
        expected = rule(bench.state(account))
        rows = bench.observations.at(account.row, account.weights)
        inputs = {
            "observation": rows[:, :, :23],
            "tradable": rows[:, :, -1] == 1,
            "held": account.weights,
            "episode_start": np.array([row == 0]),
            **states,
        }
        given = {name: inputs[name] for name in names}
        outputs = dict(zip([each.name for each in session.get_outputs()], session.run(None, given), strict=True))
        states = {name: outputs[f"next_{name}"] for name in states}

        np.testing.assert_allclose(outputs["position"][0], expected, atol=1e-5)
        assert outputs["weight"].max() <= 0.5 + 1e-6
        account.step(expected[None])


def test_a_question_of_later_orders_is_the_same_targets_a_row_later(trained):
    """A bar later as a question, beside the row that every evaluation has; and a fee of a question beside a run's."""
    study, folder = trained
    rule = Agent.load(folder).rule()
    segments = study.segments["test"]

    plain = evaluate(rule, segments, study.trading, portfolio=LIMITS)
    later = evaluate(rule, segments, study.trading, portfolio=LIMITS, question=Question(delay=1))
    dear = evaluate(rule, segments, study.trading, portfolio=LIMITS, question=Question(fee=20.0))
    configured = evaluate(rule, segments, replace(study.trading, fee_bp=20.0), portfolio=LIMITS)

    assert later.sharpe_ratio == pytest.approx(plain.robustness["sharpe_ratio_one_bar_later"], rel=1e-12)
    assert later.sharpe_ratio != plain.sharpe_ratio
    assert dear.sharpe_ratio == configured.sharpe_ratio < plain.sharpe_ratio
