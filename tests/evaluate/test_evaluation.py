"""
One evaluation of an agent: from files to every figure, each account made once. Oracles: pandas on the files, and the
functions that make each part.
"""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import segment_of, walking_market
from markets import load_shipped

from market_regimes import Agent, MarketConfig, RunConfig, Study
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate import account as account_module
from market_regimes.evaluate import evaluation as evaluation_module
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.evaluation import Critic, evaluate
from market_regimes.evaluate.figures import figures, rank_among
from market_regimes.evaluate.play import backtest, random_timing
from market_regimes.evaluate.portfolio import AccountAgent
from market_regimes.evaluate.question import Question
from market_regimes.evaluate.strategies import HOLD, buy_and_hold
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment

DAYS = pd.bdate_range("2000-01-03", periods=860)
PERIODS = dict(
    train=("2000-01-03", "2001-06-29"), validation=("2001-07-02", "2001-10-31"), test=("2001-11-01", "2003-04-18")
)
ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1)
FREE_AT_CLOSE = TradingCosts(fee_bp=0.0, fill="close")
GONE = 25  # of as many days each copy lacks another one


@pytest.fixture(scope="module")
def data(tmp_path_factory, make_prices):
    """Files of the asset and of two copies; every day is in one of these, and the ends of all periods in both."""
    folder = tmp_path_factory.mktemp("data")
    prices = make_prices(860).assign(date=DAYS)
    ends = DAYS.isin(pd.to_datetime([day for period in PERIODS.values() for day in period]))
    edges = ends | np.roll(ends, 1) | np.roll(ends, -1)
    (folder / "copies").mkdir()
    prices.to_csv(folder / "asset.csv", index=False)
    for number, hour in ((5, 0), (15, 16)):
        kept = (np.arange(860) % GONE != number) | edges
        stamped = prices[kept].assign(date=DAYS[kept] + pd.Timedelta(hours=hour))
        stamped.to_csv(folder / "copies" / f"copy{number}.csv", index=False)
    return folder


def study_of(path, out):
    market = MarketConfig(str(path), episode_bars=60, regime_bounds=(15, 25, 40), trading=FREE_AT_CLOSE, **PERIODS)
    study = Study(RunConfig(n_envs=2, total_timesteps=64, out=str(out), progress_bar=False), market, ALGORITHM)
    study.agent = lambda: buy_and_hold
    return study


def returns_of_asset(data, period):
    """Returns of the asset over the days of a period, from the close before them."""
    prices = pd.read_csv(data / "asset.csv", parse_dates=["date"]).set_index("date")["close"]
    return prices.pct_change()[PERIODS[period][0] : PERIODS[period][1]]


def held_in_copies(data, period):
    """Returns of half the money in each copy, bought at its last close before the period, in shares that are kept."""
    closes = {}
    for path in sorted((data / "copies").iterdir()):
        prices = pd.read_csv(path, parse_dates=["date"])
        closes[path.stem] = prices.set_index(prices["date"].dt.normalize())["close"]
    table = pd.DataFrame(closes).ffill()
    before = table[: PERIODS[period][0]].iloc[-2]
    equity = (table / before).mean(axis=1)
    return equity.pct_change()[PERIODS[period][0] : PERIODS[period][1]]


def sharpe(returns, per_year=261):
    return np.sqrt(per_year) * returns.mean() / returns.std()


def test_the_score_of_validation_is_that_of_the_asset(data, tmp_path):
    """The copies have 250 or 251 bars a year each, which count as 252; the account has 261 rows."""
    returns = returns_of_asset(data, "validation")
    study = study_of(data / "copies", tmp_path)
    assert (study.core.bars_per_year, study.core.rows_per_year) == (252, 261)
    scores, _ = study.score()
    assert scores["mean_reward"] == pytest.approx(100 * np.log1p(returns).sum(), rel=1e-6)
    assert scores["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "validation")), rel=1e-6)
    assert scores["sharpe_ratio"] == pytest.approx(sharpe(returns), rel=0.05)
    assert scores["sharpe_buy_and_hold"] == pytest.approx(scores["sharpe_ratio"])


def test_the_evaluation_of_a_run_and_of_its_agent_are_those_of_the_asset(data, tmp_path):
    returns = returns_of_asset(data, "test")
    study = study_of(data / "copies", tmp_path)
    result = study.evaluate(tmp_path, "test")
    agent = result["joint"]["agent"]
    assert agent["bars"] == len(returns)
    assert agent["total_return"] == pytest.approx((1 + returns).prod() - 1, rel=1e-6)
    assert agent["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)
    assert agent["sharpe_ratio"] == pytest.approx(sharpe(returns), rel=0.05)
    equity = (1 + returns).cumprod()
    assert agent["max_drawdown"] == pytest.approx((equity / equity.cummax().clip(lower=1) - 1).min(), abs=0.005)
    assert result["joint"]["equal weights"]["total_return"] == pytest.approx(agent["total_return"], abs=0.02)
    assert "equal weights" not in result["symbols"]["copy5"]
    assert json.loads((tmp_path / "evaluation-test.json").read_text())["joint"]["agent"] == agent


def test_an_evaluation_by_the_agent_of_a_run_annualises_as_the_run_does(data, tmp_path, monkeypatch):
    study = study_of(data / "copies", tmp_path)
    folder = study.start()
    monkeypatch.setattr(Agent, "rule", lambda self: buy_and_hold)
    agent = Agent.load(folder)
    result = agent.evaluate(agent.segments(str(data / "copies"), PERIODS["test"]), tmp_path, "again")
    assert result["joint"]["agent"]["sharpe_ratio"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)


def test_a_cell_of_a_comparison_is_annualised_by_the_rows_of_the_account(data):
    days = dict(train=PERIODS["train"], test=PERIODS["test"])
    market = MarketConfig(
        str(data / "copies"), episode_bars=60, regime_bounds=(15, 25, 40), trading=FREE_AT_CLOSE, **days
    )
    result = run_cell(Cell("copies", "fold", "one", 0, RunConfig(n_envs=2, total_timesteps=64), market, ALGORITHM))
    returns = returns_of_asset(data, "test")
    daily = pd.DataFrame(result["daily"])
    assert result["bars_per_year"] == 261
    assert len(daily) == len(returns)
    assert (1 + daily["hold"]).prod() == pytest.approx((1 + returns).prod(), rel=1e-4)
    assert result["figures"]["hold_sharpe"] == pytest.approx(sharpe(held_in_copies(data, "test")), rel=1e-6)
    assert result["figures"]["test_mean_reward"] == pytest.approx(100 * np.log1p(daily["return"]).mean(), rel=1e-3)


MARKET = load_shipped("sp500")
TRAIN = period_of(MARKET, "1999-01-01", "2008-12-31")
TEST = period_of(MARKET, "2011-01-01", "2018-12-31")
SEGMENT = Segment.scaled_by(MARKET, TEST, TRAIN)


NASDAQ = load_shipped("nasdaq")
NASDAQ = replace(NASDAQ, regimes=NASDAQ.regimes.fitted(NASDAQ.index, TRAIN))
BOTH = [SEGMENT, Segment.scaled_by(NASDAQ, range(TEST.start, TEST.stop - 500), TRAIN)]
COSTS = TradingCosts(fee_bp=5.0)


def alternate(known):
    """In for ten bars, out for ten; the period begins alike in both."""
    return ((known.bar - SEGMENT.first) // 10 % 2).astype(float)


# An evaluation makes each account once, and nothing that nobody reads.


@pytest.fixture
def calls(monkeypatch):
    """How often each costly part is made."""
    counts = Counter()

    def counted(place, name):
        function = getattr(place, name)

        def call(*arguments, **options):
            counts[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(place, name, call)

    counted(evaluation_module, "random_timing")
    counted(evaluation_module, "robustness")
    counted(evaluation_module, "frames_of")
    counted(account_module._Ledger, "of")
    return counts


def test_a_caller_that_reads_the_sharpe_ratio_pays_for_nothing_else(calls):
    evaluation = evaluate(alternate, BOTH, COSTS)

    assert evaluation.sharpe_ratio == figures(joint(backtest(BOTH, COSTS, alternate)), 252)["sharpe_ratio"]
    assert calls["random_timing"] == calls["robustness"] == 0
    assert "strategies" not in vars(evaluation)


def test_the_account_of_each_strategy_is_made_once(calls):
    evaluation = evaluate(alternate, BOTH, COSTS)
    evaluation.result(step=3)
    strategies = len(evaluation.accounts)
    made = calls["of"]
    evaluation.result(step=3)
    assert evaluation.scores["sharpe_ratio"] == evaluation.sharpe_ratio
    assert evaluation.share_of_attainable is None

    # Beside the strategies, the agent's targets a bar later and at up to two other costs.
    assert strategies <= made <= strategies + 3
    assert calls["of"] == made
    assert (calls["random_timing"], calls["robustness"], calls["frames_of"]) == (1, 1, 1)


def test_the_result_is_that_of_its_parts():
    """Each figure against the function that makes it, from backtests of its own."""
    evaluation = evaluate(alternate, BOTH, COSTS, seed=5)
    result = evaluation.result(step=7)

    agent = backtest(BOTH, COSTS, alternate)
    hold = backtest(BOTH, COSTS.of_rules, buy_and_hold)
    _, ratios = random_timing(BOTH, COSTS, agent, seed=5)
    rank = rank_among(joint(agent)["return"], ratios)

    assert result["step"] == 7
    of_agent = result["joint"]["agent"]
    assert {name: of_agent[name] for name in of_agent if name != "regimes"} == figures(joint(agent), 252)
    assert result["joint"]["buy and hold"]["total_return"] == joint(hold)["equity"].iloc[-1] - 1
    assert result["random_timings_below_agent"] == rank.below
    assert result["share_of_random_timings_below_agent"] == rank.share
    assert result["robustness"]["sharpe_difference"] == pytest.approx(
        of_agent["sharpe_ratio"] - result["joint"]["buy and hold"]["sharpe_ratio"]
    )


def test_a_critic_predicts_from_what_the_agent_saw():
    """A critic that predicts the position it sees, twice; rewards are discounted to the end and its value there."""
    critic = Critic(lambda observations: np.stack([observations[:, -1], observations[:, -1] + 2], axis=1), gamma=0.5)
    evaluation = evaluate(alternate, BOTH, COSTS, critic)

    predicted, realised = evaluation.predicted_and_realised

    frames = list(evaluation.agent.frames.values())
    assert len(predicted) == len(realised) == sum(map(len, frames))
    held = np.concatenate([np.append(0.0, frame["position"].to_numpy()[:-1]) for frame in frames])
    assert predicted[:, 0] == pytest.approx(held, abs=1e-6)
    last = frames[-1]
    value = last["position"].iloc[-1] + 1
    assert realised[-1] == pytest.approx(100 * np.log1p(last["return"].iloc[-1]) + 0.5 * value, rel=1e-6)


def test_a_critic_of_an_account_reads_the_weights_that_the_agent_saw_however_late_its_orders_are():
    """A critic that predicts the weight it sees: those of the account before each row, filled without the delay."""

    def weight_seen(rows):
        numbers = (rows.shape[1] - 1) // 2
        return rows[:, numbers - 1 : numbers]

    wanted = np.random.default_rng(0).uniform(0.0, 0.5, (110, 2))
    agent = AccountAgent(lambda bench: lambda state: wanted[state.row])
    critic = Critic(weight_seen, gamma=0.5)
    shared = PortfolioConfig(cash="shared")
    segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]

    at_once = evaluate(agent, segments, COSTS, critic, portfolio=shared)
    late = evaluate(agent, segments, COSTS, critic, portfolio=shared, question=Question(delay=2))
    predicted, realised = late.predicted_and_realised

    weights = at_once.played.closing_weights.to_numpy()[:-1]
    seen = np.concatenate([np.zeros((1, 2)), weights])
    assert predicted[:, 0] == pytest.approx(seen.T.ravel(), abs=1e-6)

    # What came is that of the late orders: nothing in the first two rows, then half of what comes after each row.
    assert not np.allclose(late.played.closing_weights, at_once.played.closing_weights)
    rewards = late.played.rewards
    by_symbol = realised.reshape(2, -1).T
    np.testing.assert_allclose(by_symbol[:-1], rewards[:-1] + 0.5 * by_symbol[1:], atol=1e-12)
    assert (rewards[:2] == 0).all()


@pytest.mark.parametrize("last_close", [100.0, 1.0], ids=["solvent", "ruined"])
def test_no_value_follows_the_ruin_of_an_account_in_its_last_row(last_close):
    """Twice long at the close of 100: a fall to 1 takes all, and the rewards are complete without the critic's 7."""
    market = walking_market("A", 0, bars=25)
    close = np.append(np.full(24, 100.0), last_close)
    segments = [segment_of(replace(market, close=close, open=close))]
    trading = TradingCosts(0.0, 2.0, fee_bp=0.0, financing_rate=0.0, fill="close")
    twice_long = AccountAgent(lambda bench: lambda state: np.array([2.0]))
    critic = Critic(lambda observations: np.full((len(observations), 2), 7.0), gamma=0.5)
    shared = PortfolioConfig(cash="shared")

    _, realised = evaluate(twice_long, segments, trading, critic, portfolio=shared).predicted_and_realised

    # The account loses 2 * 0.99 of its equity; 0.01 of it remains.
    last = 0.5 * 7.0
    if last_close == 1.0:
        last = 100 * np.log(0.01) * 1.98 / 0.99
    assert realised.tolist() == pytest.approx([last / 8, last / 4, last / 2, last])


class TestSharedCash:
    """One account in place of one for each symbol; oracles: a ledger of shares and cash, and the separate account."""

    @staticmethod
    def half_when_it_rose(known):
        """A rule of one symbol that changes its mind: 0.6 after an even bar, else 0.2."""
        return np.where(known.bar % 2 == 0, 0.6, 0.2)

    def test_the_agent_trades_as_a_ledger_in_shares_and_currency_does(self):
        """Three symbols, targets scaled to a sum of 1, at most 0.3 each, orders at the close at 10 bp."""
        trading = TradingCosts(fee_bp=10.0, fill="close", financing_rate=0.0)
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABC")]
        limits = PortfolioConfig(cash="shared", gross=0.7, weight_max=0.3)
        evaluation = evaluate(self.half_when_it_rose, segments, trading, portfolio=limits)

        # The ledger: costs are found by trying, until they pay for themselves.
        closes = np.array([segment.market.close[segment.first : segment.last + 1] for segment in segments])
        shares = np.zeros(3)
        cash = 1.0
        equity = []
        for t in range(closes.shape[1] - 1):
            price = closes[:, t]
            before = cash + shares @ price
            wanted = 0.6 if (segments[0].first + t) % 2 == 0 else 0.2
            weight = min(wanted, 0.3)
            weight = min(weight, 0.7 / 3)
            cost = 0.0
            for _ in range(100):
                values = weight * (before - cost) * np.ones(3)
                cost = 0.001 * np.abs(values - shares * price).sum()
            cash += (shares * price).sum() - values.sum() - cost
            shares = values / price
            equity.append(cash + shares @ closes[:, t + 1])

        np.testing.assert_allclose(evaluation.agent.joint["equity"], equity, rtol=1e-12)
        np.testing.assert_allclose(evaluation.played.account["equity"], equity, rtol=1e-12)

    def test_one_symbol_earns_what_its_separate_account_earns(self):
        segments = [segment_of(walking_market("A", 3))]
        trading = TradingCosts(fee_bp=5.0)
        alone = evaluate(self.half_when_it_rose, segments, trading)
        shared = evaluate(self.half_when_it_rose, segments, trading, portfolio=PortfolioConfig(cash="shared"))

        for name in ("return", "gross_return", "equity", "trade", "cost"):
            np.testing.assert_array_equal(shared.agent.joint[name], alone.agent.joint[name])
        assert shared.sharpe_ratio == alone.sharpe_ratio
        for strategy, ratio in alone.sharpe_ratios.items():
            assert shared.sharpe_ratios[strategy] == (ratio and pytest.approx(ratio, rel=1e-9))

    def test_buy_and_hold_is_what_separate_accounts_hold(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABC")]
        trading = TradingCosts(fee_bp=5.0)
        shared = evaluate(self.half_when_it_rose, segments, trading, portfolio=PortfolioConfig(cash="shared"))
        alone = evaluate(self.half_when_it_rose, segments, trading)

        of_shared = shared.strategies[HOLD].joint["equity"]
        np.testing.assert_allclose(of_shared, alone.strategies[HOLD].joint["equity"], rtol=1e-9)

    def test_an_evaluation_of_shared_cash_has_all_its_figures(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABC")]
        limits = PortfolioConfig(cash="shared", weight_max=0.3)
        evaluation = evaluate(self.half_when_it_rose, segments, TradingCosts(fee_bp=5.0), portfolio=limits)
        result = evaluation.result(step=1)

        account = evaluation.played.account
        cut = [row.split("+") for row in account["limits"]]
        assert result["account"]["limits"]["weight"] == sum("weight" in names for names in cut)
        assert 0 < result["random_timings"] == min(100, len(account) - 1)
        assert result["robustness"]["sharpe_ratio_one_bar_later"] is not None

    def test_limits_that_do_not_fit_the_symbols_are_refused_before_anything_is_played(self):
        segments = [segment_of(walking_market("A", 3))]
        limits = PortfolioConfig(cash="shared", net=3.0)
        with pytest.raises(ValueError, match=r"net=3 exceeds market\.portfolio\.gross=1"):
            evaluate(self.half_when_it_rose, segments, TradingCosts(), portfolio=limits)

    def test_groups_may_name_more_symbols_than_are_evaluated(self):
        """A alone may have 0.3; its group of two is cut as if the missing symbol held nothing."""
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AC")]
        limits = PortfolioConfig(cash="shared", groups={"A": "x", "B": "x"}, group_max={"x": 0.3})
        evaluation = evaluate(self.half_when_it_rose, segments, TradingCosts(fee_bp=5.0), portfolio=limits)

        weights = evaluation.played.weights
        assert weights["A"].max() == pytest.approx(0.3)
        assert weights["C"].max() > 0.3
