"""Prices that ship with arch, and the synthetic market against its law; its rules against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from arch.data import nasdaq, sp500, vix
from markets import load_markets, load_shipped
from scipy import stats

from market_regimes.config import SYNTHETIC, MarketConfig, PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.evaluation import benchmarks
from market_regimes.evaluate.figures import figures, share_of_attainable
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.portfolio import Bench, in_one_account, play_account
from market_regimes.evaluate.strategies import INFORMED, buy_and_hold, fitted, informed, informed_in_account
from market_regimes.market.environment import MarketCore
from market_regimes.market.features import WINDOW
from market_regimes.market.market import market_of
from market_regimes.market.periods import date_text
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of
from market_regimes.market.shipped import shipped, synthetic

COSTS = TradingCosts()


@pytest.fixture(scope="module", params=SYNTHETIC)
def segments(request):
    return segments_of(MarketConfig(data=request.param))


@pytest.fixture(scope="module")
def observed():
    return segments_of(MarketConfig(data="synthetic"))


def test_the_series_are_twenty_and_independent():
    series = synthetic()

    assert [bars.symbol for bars in series] == [f"synthetic-{i:02d}" for i in range(1, 21)]

    growth = np.corrcoef([np.diff(np.log(bars.close)) for bars in series])

    assert np.abs(growth - np.eye(20)).max() < 5 / np.sqrt(len(series[0].close))
    assert all(np.array_equal(a.close, b.close) for a, b in zip(series, synthetic(), strict=True))

    others = synthetic(seed=1)

    assert not any(np.array_equal(a.close, b.close) for a in series for b in others)


def test_the_hidden_market_is_the_same_but_for_the_observation():
    """It shows the last return, and 0 in place of all else."""
    names = ("synthetic", "synthetic_hidden")
    shown, hidden = (segments_of(MarketConfig(data=name))["test"] for name in names)

    for one, two in zip(shown, hidden, strict=True):
        assert two.market.symbol == one.market.symbol.replace("synthetic", "synthetic_hidden")
        for name in ("close", "open", "index", "regime", "volatility"):
            assert np.array_equal(getattr(one.market, name), getattr(two.market, name), equal_nan=True)

    cores = [MarketCore(each, len(each), episode_bars=None) for each in (shown, hidden, shown + hidden)]

    for _ in range(30):
        one, two, both = (core.observations() for core in cores)
        assert one.shape == two.shape == (20, WINDOW + 3)
        assert np.array_equal(both, np.concatenate([one, two]))  # each symbol's own where both are traded
        assert np.array_equal(one[:, WINDOW - 1], two[:, WINDOW - 1])
        assert np.isin(np.round(20 * one[:, WINDOW + 1].astype(float), 1), [11.1, 44.4]).all()
        assert not np.delete(two, WINDOW - 1, axis=1).any()
        for core in cores:
            core.step(np.ones(core.n_envs))

    assert np.array_equal(cores[0].known().index, cores[1].known().index)  # rules know it in both


def likelihoods(returns):
    """Of log returns in per cent, on a calm and on a stormy day of the law."""
    t = stats.t(4, scale=1 / np.sqrt(2))
    calm = t.pdf((returns - 0.08) / 0.7) / 0.7
    stormy = 249 / 250 * t.pdf((returns + 0.15) / 2.8) / 2.8 + 1 / 250 * t.pdf((returns + 8.15) / 2.8) / 2.8

    return calm, stormy


def updated(storm, calm, stormy):
    """Bayes' filter (Hamilton 1989): how probable a stormy next day is, by how probable this one was and its return."""
    odds = storm * stormy
    storm = odds / (odds + (1 - storm) * calm)

    return storm * 49 / 50 + (1 - storm) / 120


def filtered(close, days):
    """What the filter knows at each close from that many returns."""
    calm, stormy = likelihoods(100 * np.diff(np.log(close), prepend=np.log(close[0])))
    storm = np.full(len(close), 50 / 170)

    for lag in reversed(range(days)):
        storm = updated(storm, np.roll(calm, lag), np.roll(stormy, lag))

    return storm  # of the first days it has seen the last bars, long before the test days


def test_what_memory_is_worth_where_the_last_return_is_all_that_is_seen():
    """
    Shares of what the informed rule attains: 0.75 for the law's filter, 0.24 for the best that the last return tells.
    Twenty returns are worth as much as a hundred: an agent that observes them needs no memory.
    """
    period = segments_of(MarketConfig(data="synthetic_hidden"))["test"]
    mean, std = (np.array([getattr(s.scaling, f"return_{name}") for s in period]) for name in ("mean", "std"))

    def sharpe(rule):
        return figures(joint(backtest(period, COSTS, rule)), 252)["sharpe_ratio"]

    def attained(rule):
        return share_of_attainable(sharpe(rule), sharpe(buy_and_hold), sharpe(informed(period, COSTS)))

    def with_memory(days):
        storms = np.array([filtered(segment.market.close, days) for segment in period])
        return lambda known: (storms[known.symbol, known.bar] < 0.2).astype(float)

    def while_small(limit):  # what is seen tells nothing else
        def rule(known):
            assert np.count_nonzero(known.observations, axis=1).max() == 1

            size = np.abs(known.observations[:, WINDOW - 1] * std[known.symbol] + mean[known.symbol])
            return (100 * size < limit).astype(float)

        return rule

    assert 0.2 < max(attained(while_small(limit)) for limit in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)) < 0.3
    assert attained(with_memory(20)) == pytest.approx(attained(with_memory(100)), abs=0.01)
    assert attained(with_memory(100)) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_regimes_are_those_of_the_vix_and_its_truth_is_never_estimated(name):
    for number, market in enumerate(load_markets([name], "estimated"), start=1):
        is_weak = name == "synthetic_choice" and number % 2 == 0
        regime, index = (1, 17.8) if is_weak else (0, 11.1)
        assert set(np.unique(market.regime)) == {regime, 3}
        assert set(np.round(market.index, 1)) == {index, 44.4}

    (segment, *_) = segments_of(MarketConfig(data=name))["train"]

    assert segment.market.regimes.bounds == (15.0, 25.0, 40.0)


def test_the_informed_rule_by_hand(observed):
    """In at the next open while the index is 11.1, out while it is 44.4; 1 bp of what is traded."""
    period = observed["test"]
    frames = backtest(period, COSTS, informed(period, COSTS))
    daily = []

    for segment in period:
        market, held, returns = segment.market, 0.0, []
        for t in range(segment.first, segment.last):
            wanted = 1.0 if market.index[t] < 25 else 0.0
            equity = 1 + held * (market.open[t + 1] / market.close[t] - 1)
            if wanted > held:
                equity /= 1.0001  # all of it buys d (1 + 0.0001) d = equity
            elif wanted < held:
                equity *= 0.9999
            held = wanted
            equity *= 1 + held * (market.close[t + 1] / market.open[t + 1] - 1)
            returns.append(equity - 1)
        daily.append(returns)
        assert frames[market.symbol]["return"].to_numpy() == pytest.approx(returns, abs=1e-7)

    equity = np.mean(np.cumprod(1 + np.array(daily), axis=1), axis=0)  # of twenty accounts with equal starts
    mean = equity / np.concatenate([[1.0], equity[:-1]]) - 1
    sharpe = np.sqrt(252) * mean.mean() / mean.std(ddof=1)

    assert figures(joint(frames), 252)["sharpe_ratio"] == pytest.approx(sharpe, rel=1e-4)
    assert sharpe > 5


def test_the_fitted_rule_reaches_nine_tenths_of_the_informed_one(segments):
    """The oracle's means: a loop over the training period, by the index at the close before."""
    sums = {11.1: [0, 0.0], 17.8: [0, 0.0], 44.4: [0, 0.0]}

    for segment in segments["train"]:
        market = segment.market
        for t in range(segment.training_bars.start, segment.training_bars.stop - 1):
            cell = sums[round(float(market.index[t]), 1)]
            cell[0] += 1
            cell[1] += 100 * np.log(market.close[t + 1] / market.close[t])

    assert sums[11.1][1] / sums[11.1][0] > 0.06
    assert 0.01 < sums[17.8][1] / max(sums[17.8][0], 1) < 0.03 or not sums[17.8][0]
    assert sums[44.4][1] / sums[44.4][0] < -0.1

    # Where half of the symbols gain a quarter, less can be attained.
    attainable = 4 if segments["test"][0].market.source == "synthetic_choice" else 5
    for name in ("validation", "test"):
        period = segments[name]
        sharpes = [
            figures(joint(backtest(period, COSTS, rule)), 252)["sharpe_ratio"]
            for rule in (fitted(period, COSTS), informed(period, COSTS), buy_and_hold)
        ]
        assert sharpes[0] >= 0.9 * sharpes[1] > attainable > 1 > sharpes[2]


@pytest.mark.parametrize(
    ("costs", "calm", "stormy"),
    [
        (TradingCosts(), 1, 0),  # 0.08 > 2 * 0.01 / 120
        (
            TradingCosts(fee_bp=479),
            1,
            0,
        ),  # a round trip: 9.58 % over 120 days is 0.0798 a day
        (TradingCosts(fee_bp=400, slippage_bp=81), 0, 0),  # 9.62 / 120 = 0.0802
        (TradingCosts(cash_rate=0.2), 1, 0),  # 20 / 252 = 0.0794 in cash
        (TradingCosts(cash_rate=0.21), 0, 0),  # 21 / 252 = 0.0833
        (
            TradingCosts(position_high=2, financing_rate=0.3),
            2,
            0,
        ),  # 2 * 0.08 - 30 / 252 = 0.041
        (TradingCosts(position_high=2, financing_rate=0.5), 0, 0),  # 0.16 - 0.198
        (
            TradingCosts(position_low=-1, position_high=-0.5, financing_rate=0.3),
            0,
            -0.5,
        ),  # 0.091 - 0.5 * 30 / 252
        (
            TradingCosts(position_low=-1, position_high=-0.5, financing_rate=0.5),
            0,
            0,
        ),  # 0.091 - 0.5 * 50 / 252 < 0
        (TradingCosts(positions=[0.0, 0.25]), 0.25, 0),
    ],
)
def test_the_informed_rule_holds_what_pays_its_costs(observed, costs, calm, stormy):
    period = observed["test"]
    rule = informed(period, costs)
    core = MarketCore(period, len(period), episode_bars=None)

    for _ in range(300):
        known = core.known()
        assert rule(known) == pytest.approx(np.where(known.index < 25, calm, stormy))
        core.step(np.zeros(20))


def test_the_fitted_rule_learns_from_the_training_period_only_and_pools_the_symbols():
    """Two symbols whose calm bars gain 1 % and lose 0.5 %, 0.25 % on average; crash bars lose; nothing is normal."""
    series = []

    for bars, gain in zip(synthetic()[:2], (0.01, -0.005), strict=True):
        stormy = np.concatenate([[False], bars.volatility_index[:-1] > 25])
        close = 100 * np.exp(np.cumsum(np.where(stormy, -0.01, gain)))
        series.append((bars, close))

    config = MarketConfig(data="synthetic")
    train, test = range(0, 2500), range(2600, 4000)
    periods = []

    for bars, close in series:
        market = market_of(replace(bars, open=close, close=close), config, train, test.stop - 1)
        late = close.copy()
        late[2500:] *= np.exp(np.cumsum(np.full(len(close) - 2500, -0.05)))  # what follows must not count
        periods.append(Segment.scaled_by(replace(market, close=late, open=late), test, train))

    rule = fitted(periods, COSTS)
    core = MarketCore(periods, 2, episode_bars=None)

    for _ in range(200):
        known = core.known()
        assert rule(known).tolist() == [float(i == 0) for i in known.regime]
        core.step(np.zeros(2))

    alone = fitted(periods[1:], COSTS)

    assert not any(alone(replace(known, regime=np.full(2, i))).any() for i in range(4))
    assert fitted(periods, replace(COSTS, fee_bp=999))(known).max() == 1  # a round trip: 20 % over 120 bars is 0.17

    dear = replace(COSTS, fee_bp=999, slippage_bp=999)  # a round trip: 40 % over 120 bars is 0.33 a bar

    assert fitted(periods, dear)(known).max() == 0


def test_only_where_the_law_is_known_there_is_an_informed_rule(observed):
    segment = observed["test"][0]
    unknown = Segment.scaled_by(
        replace(
            segment.market,
            source="prices.csv",
            law=None,
            regimes=DEFAULT_REGIMES.fitted(segment.market.index, segment.training_bars),
        ),
        segment.period,
        segment.training,
    )

    assert informed([segment, unknown], COSTS) is None
    assert [each.label for each in benchmarks([unknown], COSTS)] == [
        "buy and hold",
        "volatility target",
        "fitted rule",
    ]
    assert list(benchmarks([segment], COSTS))[-1].label == "informed rule"


@pytest.fixture(scope="module")
def choice():
    return segments_of(MarketConfig(data="synthetic_choice"))["test"]


class TestChoice:
    """Half of the symbols gain a quarter as much on calm days."""

    def test_all_but_the_drift_and_the_calm_index_of_every_second_symbol_is_as_before(self):
        """0.08 became 0.02 on calm days: the closes differ by 0.06 per cent for each of them."""
        for number, (one, two) in enumerate(zip(synthetic(), synthetic("synthetic_choice"), strict=True), start=1):
            is_calm = one.volatility_index < 25
            assert two.symbol == f"synthetic_choice-{number:02d}"
            if number % 2:
                assert np.array_equal(one.close, two.close)
                assert np.array_equal(one.open, two.open)
                assert np.array_equal(one.volatility_index, two.volatility_index)
                continue

            # The regime of a day is in the index of the day before; the first day is calm.
            calm_days = np.cumsum(np.concatenate([[True], is_calm[:-1]]))
            assert np.log(one.close / two.close) == pytest.approx(0.0006 * calm_days, abs=1e-9)
            assert two.volatility_index[is_calm] == pytest.approx(17.78, abs=0.01)  # 1.6 times 11.11
            assert np.array_equal(two.volatility_index[~is_calm], one.volatility_index[~is_calm])

    def test_in_separate_accounts_the_informed_rule_holds_both_kinds(self, choice):
        core = MarketCore(choice, len(choice), episode_bars=None)
        rule = informed(choice, COSTS)
        for _ in range(100):
            known = core.known()
            assert rule(known).tolist() == [float(index < 25) for index in known.index]
            core.step(np.zeros(20))

    @pytest.mark.parametrize(
        ("limits", "strong", "weak"),
        [
            ({}, 1 / 7, 0),
            ({"weight_max": 0.1}, 0.1, 0.3 / 5),  # 7 strong ones leave 0.3 to 5 weak ones
            ({"weight_max": 0.05}, 0.05, 0.05),
            ({"top_k": 4}, 1 / 4, 0),
            ({"top_k": 9, "weight_max": 0.1}, 0.1, 0.1),  # 7 places, then 2 of 5
            ({"gross": 0.5}, 0.5 / 7, 0),
            ({"groups": {"synthetic_choice-01": "a"}, "group_max": {"a": 0.5}}, 1, 1),
        ],
    )
    def test_with_shared_cash_it_fills_the_account_with_the_strong_kind_first(self, choice, limits, strong, weak):
        """On a day on which 7 strong and 5 weak symbols are calm."""
        rule = informed_in_account(choice, COSTS, PortfolioConfig(cash="shared", **limits))
        core = MarketCore(choice, len(choice), episode_bars=None)
        is_strong = np.arange(20) % 2 == 0
        while True:
            known = core.known()
            is_calm = known.index < 25
            if (is_calm & is_strong).sum() == 7 and (is_calm & ~is_strong).sum() == 5:
                break
            core.step(np.zeros(20))

        expected = np.where(is_strong, strong, weak) * is_calm

        assert rule(known) == pytest.approx(expected)

    def test_no_weak_symbol_takes_the_place_of_a_strong_one(self, choice):
        """Of 5 places with 0.1 each the strong calm symbols have as many as they can, whatever was held before."""
        limits = PortfolioConfig(cash="shared", top_k=5, weight_max=0.1)
        bench = Bench.of(choice, COSTS)
        played = in_one_account(bench, informed_in_account(choice, COSTS, limits), limits)
        is_strong = np.arange(20) % 2 == 0

        # The index at the decision of each row.
        rows = len(played.account)
        index = np.stack([segment.market.index[segment.first :][:rows] for segment in choice], axis=1)
        is_calm = index < 25
        strong = (is_calm & is_strong).sum(axis=1).clip(max=5)
        weak = np.minimum((is_calm & ~is_strong).sum(axis=1), 5 - strong)

        is_held = played.weights.to_numpy() > 0
        assert (is_held & is_strong).sum(axis=1).tolist() == strong.tolist()
        assert (is_held & ~is_strong).sum(axis=1).tolist() == weak.tolist()

    def test_where_nothing_may_be_held_long_it_decides_as_in_separate_accounts(self, choice):
        costs = TradingCosts(position_low=-1, position_high=-0.5, financing_rate=0.3)
        rule = informed_in_account(choice, costs, PortfolioConfig(cash="shared"))
        known = MarketCore(choice, len(choice), episode_bars=None).known()

        assert rule(known) == pytest.approx(np.where(known.index < 25, 0, -0.5))

    def test_an_evaluation_with_shared_cash_measures_against_the_rule_that_chooses(self, choice):
        shared = PortfolioConfig(cash="shared")
        account = benchmarks(choice, COSTS, (INFORMED,), shared)[INFORMED]
        by_hand = play_account(Bench.of(choice, COSTS), self.by_hand(choice), shared)

        assert account.joint["return"].to_numpy() == pytest.approx(by_hand.account["return"].to_numpy(), abs=1e-12)

    @staticmethod
    def by_hand(choice):
        """All in strong symbols that are calm, in equal parts; the first row is decided at bar ``first``."""

        def rule(state):
            bar = choice[0].first + state.row
            wanted = [s.market.index[bar] < 12 for s in choice]
            return np.array(wanted) / max(sum(wanted), 1)

        return rule

    def test_choosing_is_worth_seven_per_cent_a_year(self, choice):
        """2011 to 2018 at 1 basis point: what the law pays is 0.08 a day or 20.2 % a year, and (0.08 + 0.02) / 2."""
        bench = Bench.of(choice, COSTS)
        shared = PortfolioConfig(cash="shared")
        both = in_one_account(bench, informed(choice, COSTS), shared)
        chosen = in_one_account(bench, informed_in_account(choice, COSTS, shared), shared)
        growth = [100 * 252 * np.log1p(played.account["return"]).mean() for played in (both, chosen)]

        assert growth == pytest.approx([13.34, 20.77], abs=0.01)
        assert (chosen.weights.iloc[:, 1::2] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("agent", "held", "known", "share"),
    [
        (3.5, 0.5, 6.5, 0.5),
        (0.5, 0.5, 6.5, 0.0),
        (6.5, 0.5, 6.5, 1.0),
        (-0.1, 0.5, 6.5, -0.1),
        (1.0, 0.5, 0.5, None),
        (1.0, 0.5, 0.4, None),
        (None, 0.5, 6.5, None),
        (1.0, None, 6.5, None),
        (1.0, 0.5, None, None),
    ],
)
def test_the_share_of_the_attainable(agent, held, known, share):
    assert share_of_attainable(agent, held, known) == (None if share is None else pytest.approx(share))


@pytest.fixture(scope="module")
def market():
    return load_shipped("sp500")


def test_sp500_is_what_it_is_known_to_be(market):
    assert len(market.dates) == 5031
    assert (date_text(market.dates[0]), date_text(market.dates[-1])) == (
        "1999-01-04",
        "2018-12-31",
    )
    assert market.close[-1] == pytest.approx(2506.85, abs=0.01)
    assert np.all(np.diff(market.dates.astype(int)) > 0)


def test_prices_are_those_that_the_loaders_of_arch_give():
    for name, data in dict(sp500=sp500, nasdaq=nasdaq).items():
        expected, [bars] = data.load(), shipped(name)
        assert np.array_equal(bars.dates, expected.index.to_numpy())
        for column in ("Open", "Close", "Volume"):
            assert np.array_equal(getattr(bars, column.lower()), expected[column])

    [bars], known = shipped("sp500", "real"), vix.load()["vix"].dropna()
    days = np.isin(bars.dates, known.index)

    assert np.array_equal(bars.volatility_index[days], known.reindex(bars.dates[days]))


def test_real_index_is_the_vix_where_there_is_one(market):
    real = load_shipped("sp500", "real")
    published = vix.load()["vix"]
    day = np.flatnonzero(real.dates == np.datetime64("2015-08-24"))[0]

    assert real.index[day] == published.loc["2015-08-24"] > 40
    assert np.array_equal(real.index[20:3000], market.index[20:3000])
