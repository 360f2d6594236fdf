"""An account over a period: rows, benchmarks, timing; oracles: plain loops, closed forms, today's modules."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import segment_of, walking_market

from market_regimes.config import MarketConfig, PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.evaluate.figures import figures_by_regime, rank_among, sharpe_ratio
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.portfolio import (
    Bench,
    _returns_of_shifts,
    account_benchmarks,
    backtest_in,
    bought_once,
    equal_weights_every,
    frames_of,
    in_one_account,
    inverse_volatility,
    optimised,
    play_account,
    positions_of_account,
    replay,
    shifted_accounts,
    targets_of,
    trades_of_account,
)
from market_regimes.evaluate.strategies import buy_and_hold, informed
from market_regimes.market.segments import segments_of

COSTS = TradingCosts(fee_bp=5.0)
SHARED = PortfolioConfig(cash="shared")


def bench_of(*markets, costs=COSTS):
    return Bench.of([segment_of(market) for market in markets], costs)


@pytest.fixture
def three():
    """Three symbols, one of which is listed late and has gaps."""
    present = np.random.default_rng(9).random(85) > 0.1
    kept = 20 + np.flatnonzero(present | (np.arange(85) < 22))
    return bench_of(walking_market("A", 0), walking_market("B", 1), walking_market("C", 2, kept=kept))


def random_targets(bench, seed=0):
    targets = np.random.default_rng(seed).uniform(0, 1, bench.quotes.listed.shape)
    targets[np.random.default_rng(seed + 1).random(targets.shape) < 0.3] = np.nan
    return targets


class TestRows:
    """What an account's tables hold."""

    def test_contributions_and_the_cash_add_up_to_the_simple_return(self, three):
        played = play_account(three, replay(random_targets(three)), SHARED)
        total = played.contributions.sum(axis=1) + played.account["cash_contribution"]

        assert total.to_numpy() == pytest.approx(played.account["return"].to_numpy(), abs=1e-15)

    def test_the_columns_of_an_account_by_hand(self):
        """Prices stand still: 0.4 and 0.2 are bought at 5 bp, c = 0.0005 * 0.6 (1 - c); then A is sold."""
        flat = np.full(60, 100.0)
        markets = [replace(walking_market(name, 0, bars=60), open=flat, close=np.r_[[99.0], flat[1:]]) for name in "AB"]
        targets = np.full((39, 2), np.nan)
        targets[0] = [0.4, 0.2]
        targets[1] = [0.0, np.nan]
        played = play_account(bench_of(*markets), replay(targets), SHARED)
        first = 0.0003 / 1.0003

        account = played.account

        assert account["cost"].iloc[0] == pytest.approx(first, rel=1e-12)
        assert account["trade"].iloc[0] == pytest.approx(0.6 * (1 - first), rel=1e-12)
        assert account["cash"].iloc[0] == pytest.approx(0.4, rel=1e-12)
        assert account["cost"].iloc[1] == pytest.approx(0.0005 * 0.4, rel=1e-12)
        assert account["gross"].iloc[1] == pytest.approx(0.2 / (1 - 0.0002), rel=1e-12)
        assert account["equity"].iloc[-1] == pytest.approx((1 - first) * (1 - 0.0002), rel=1e-12)
        assert account["gross_equity"].iloc[-1] == 1.0

    def test_the_limits_that_cut_are_named_and_counted(self, three):
        config = PortfolioConfig(cash="shared", weight_max=0.4, gross=0.7)
        targets = np.zeros(three.quotes.listed.shape)
        targets[3] = [0.6, 0.1, 0.0]
        targets[5] = [0.6, 0.6, 0.0]
        played = play_account(three, replay(targets), config)

        assert played.account["limits"].iloc[[3, 4, 5]].tolist() == ["weight", "", "weight+gross"]
        assert played.limits == {"weight": 2, "gross": 1}

    def test_frames_of_symbols_join_to_the_account(self, three):
        played = play_account(three, replay(random_targets(three)), SHARED)
        together = joint(frames_of(played, three))
        for name in (
            "return",
            "gross_return",
            "equity",
            "gross_equity",
            "trade",
            "cost",
            "target",
            "position",
            "index",
        ):
            assert together[name].to_numpy() == pytest.approx(played.account[name].to_numpy(), abs=1e-12), name

        assert figures_by_regime(Account(frames_of(played, three)), 252)["normal"]["bars"] == len(played.account)

    def test_an_end_is_known_a_row_after_the_last_bar(self):
        """The last bar of B is row 38: at its close, where the orders of row 39 are given, B is still there."""
        bench = bench_of(walking_market("A", 0), walking_market("B", 1, kept=np.arange(60)))
        seen = []

        def rule(state):
            seen.append(bool(state.available[1]))
            return np.zeros(2)

        play_account(bench, rule, SHARED)

        assert seen == [True] * 40 + [False] * 49

    def test_after_ruin_nothing_is_held(self):
        market = walking_market("A", 0, bars=60)
        close = np.where(np.arange(60) >= 30, market.close / 400, market.close)
        bench = bench_of(replace(market, close=close), walking_market("B", 1, bars=60))
        played = play_account(bench, replay(np.tile([1.0, 0.0], (39, 1))), SHARED)

        assert played.account["equity"].iloc[8] > 0.5
        assert played.account["equity"].iloc[9:].to_numpy() == pytest.approx(0.01, rel=1e-12)
        assert (played.trades.to_numpy()[10:] == 0).all()
        assert (played.account["return"].to_numpy()[10:] == 0).all()

        total = played.contributions.sum(axis=1) + played.account["cash_contribution"]

        assert total.iloc[9] == pytest.approx(played.account["return"].iloc[9], abs=1e-15)


class TestDecisionsBySymbol:
    """Agents of one symbol in one account."""

    def test_targets_are_the_last_decision_up_to_the_order(self, three):
        """A rule that names its bar: the account's row has the bar at whose close its order is given."""
        frames = backtest(three.segments, three.costs, lambda known: known.bar / 1000)
        targets = targets_of(frames, three)
        dates = three.segments[2].market.dates
        for row in range(1, len(targets)):
            seen = np.flatnonzero(dates <= three.quotes.stamps[row - 1])
            last = seen[-1] if len(seen) else -1
            expected = last / 1000 if three.segments[2].first <= last < three.segments[2].last else np.nan
            np.testing.assert_array_equal(targets[row, 2], expected)

    @pytest.mark.parametrize("fill", ["next_open", "close"])
    def test_one_symbol_is_todays_backtest(self, fill):
        bench = bench_of(walking_market("A", 0), costs=replace(COSTS, fill=fill))
        rule = lambda known: (known.bar % 7) / 6  # noqa: E731
        frame = backtest(bench.segments, bench.costs, rule)["A"]
        played = in_one_account(bench, rule, SHARED)

        np.testing.assert_array_equal(played.account["return"], frame["return"])
        np.testing.assert_array_equal(played.weights["A"], frame["target"])
        np.testing.assert_array_equal(played.trades["A"], frame["trade"])

    def test_the_cash_decides_which_account_a_backtest_is_of(self, three):
        separate = backtest_in(three, buy_and_hold, PortfolioConfig())
        for symbol, frame in backtest(three.segments, three.costs, buy_and_hold).items():
            pd.testing.assert_frame_equal(separate[symbol], frame)

        shared = joint(backtest_in(three, buy_and_hold, SHARED))["return"]
        account = in_one_account(three, buy_and_hold, SHARED).account["return"]

        assert shared.to_numpy() == pytest.approx(account.to_numpy(), abs=1e-13)

    def test_one_account_of_several_symbols_with_separate_cash_is_refused(self, three):
        with pytest.raises(ValueError, match=r"market\.portfolio\.cash=separate keeps an account per symbol"):
            in_one_account(three, buy_and_hold, PortfolioConfig())


class TestBenchmarks:
    """What an allocator would choose."""

    def test_bought_once_is_separate_accounts_of_buy_and_hold(self):
        markets = [walking_market(name, seed) for seed, name in enumerate("ABC")]
        bench = bench_of(*markets, costs=TradingCosts(fee_bp=0.0))
        played = play_account(bench, bought_once(bench), SHARED)
        # Separate accounts hold 1 of their equity each, which no price changes: they never trade again either.
        hold = joint(backtest(bench.segments, bench.costs, buy_and_hold))

        assert played.account["equity"].to_numpy() == pytest.approx(hold["equity"].to_numpy(), rel=1e-13)
        assert (played.account["trade"].to_numpy()[1:] == 0).all()

    def test_a_late_symbol_is_bought_with_its_part_of_the_first_equity(self, three):
        played = play_account(three, bought_once(three), SHARED)
        row = int(np.argmax(three.quotes.listed[:, 2]))
        before = played.account["equity"].iloc[row - 1]

        assert row > 15
        assert played.targets["C"].iloc[row] * before == pytest.approx(1 / 3)
        assert np.flatnonzero(played.account["trade"]).tolist() == [0, row]

    def test_equal_weights_are_those_of_today_and_rarer_ones_trade_rarer(self):
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("ABC")))
        daily = play_account(bench, equal_weights_every(bench), SHARED)
        today = joint(equal_weights(bench.segments, bench.costs))

        assert daily.account["equity"].to_numpy() == pytest.approx(today["equity"].to_numpy(), rel=1e-13)

        monthly = play_account(bench, equal_weights_every(bench, 21), SHARED)

        assert np.flatnonzero(monthly.account["trade"]).tolist() == [0, 21, 42, 63, 84]

    def test_inverse_volatility_by_hand(self):
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("AB")))
        played = play_account(bench, inverse_volatility(bench), SHARED)
        first, second = (1 / s.market.volatility[20 + 7] for s in bench.segments)

        assert played.weights.iloc[7].tolist() == pytest.approx([first / (first + second), second / (first + second)])

    def test_minimum_variance_and_risk_parity_of_two_symbols_are_their_closed_forms(self):
        """Estimated on the returns before each order alone."""
        bench = bench_of(walking_market("A", 0, bars=200, spread=0.01), walking_market("B", 1, bars=200))
        row = 120
        closes = pd.DataFrame({s.market.symbol: s.market.close for s in bench.segments})
        covariance = closes.pct_change().iloc[row + 21 - 100 : row + 21].cov().to_numpy()
        variances = covariance.diagonal()
        least = (variances[1] - covariance[0, 1]) / (variances.sum() - 2 * covariance[0, 1])
        spreads = np.sqrt(variances)

        for kind, expected in (("minimum variance", least), ("risk parity", spreads[1] / spreads.sum())):
            rule = optimised(bench, kind, every=20, lookback=100)
            played = play_account(bench, rule, SHARED)
            assert played.weights["A"].iloc[row] == pytest.approx(expected, abs=2e-3), kind
            assert (played.weights.to_numpy()[:80] == 0).all()

    def test_without_skfolio_its_benchmarks_are_left_out_and_one_alone_is_refused(self, three, monkeypatch):
        monkeypatch.setitem(sys.modules, "skfolio.optimization", None)
        with pytest.raises(ImportError, match=r"minimum variance needs skfolio: pip install"):
            optimised(three, "minimum variance")
        names = list(account_benchmarks(three, SHARED))

        assert names == ["bought once", "equal weights", "inverse volatility", "fitted rule"]


class TestTiming:
    """The account's weights at random times."""

    def test_a_shift_of_0_is_the_account(self, three):
        targets = random_targets(three)
        played = play_account(three, replay(targets), SHARED)
        circle = np.flatnonzero(three.quotes.listed.all(axis=1))
        returns = _returns_of_shifts(three, played, SHARED, circle, np.array([0]))

        assert returns[:, 0] == pytest.approx(played.account["return"].to_numpy(), abs=1e-13)

    def test_a_shift_by_hand(self):
        """Filled at the close without costs: the return is weights times growth."""
        costs = TradingCosts(fee_bp=0.0, fill="close")
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("AB")), costs=costs)
        targets = np.random.default_rng(0).uniform(0, 0.5, (89, 2))
        played = play_account(bench, replay(targets), SHARED)
        growth = np.stack([s.market.close[21:] / s.market.close[20:-1] - 1 for s in bench.segments], axis=1)
        returns = _returns_of_shifts(bench, played, SHARED, np.arange(89), np.array([1, 30]))
        for column, shift in enumerate((1, 30)):
            expected = (np.roll(targets, shift, axis=0) * growth).sum(axis=1)
            assert returns[:, column] == pytest.approx(expected, abs=1e-13)

    def test_before_a_listing_every_copy_is_the_account(self, three):
        played = play_account(three, replay(random_targets(three)), SHARED)
        start = int(np.argmax(three.quotes.listed[:, 2]))
        circle = np.flatnonzero(three.quotes.listed.all(axis=1))

        assert circle[0] == start

        returns = _returns_of_shifts(three, played, SHARED, circle, np.array([3, 17]))
        own = played.account["return"].to_numpy()

        assert returns[:start] == pytest.approx(np.stack([own[:start]] * 2, axis=1), abs=1e-13)
        assert np.abs(returns[start + 1 :] - own[start + 1 :, None]).max() > 1e-4

    def test_turnover_of_one_who_never_trades_again_stays_that_of_two_purchases(self):
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("AB")))
        played = play_account(bench, bought_once(bench), SHARED)
        weights = played.weights.to_numpy()
        returns = _returns_of_shifts(bench, played, SHARED, np.arange(89), np.array([40]))

        # By hand: what was held 49 rows in, kept for 40 rows, then what was bought first.
        start = np.full((89, 2), np.nan)
        start[0] = weights[49]
        start[40] = weights[0]
        expected = play_account(bench, replay(start), SHARED).account["return"].to_numpy()

        assert returns[:, 0] == pytest.approx(expected, abs=1e-13)

    def test_where_the_circle_closes_all_weights_are_ordered_anew(self):
        """B is bought in row 10 and has no order before: a copy that begins with row 49 sells it at the seam."""
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("AB")))
        targets = np.full((89, 2), np.nan)
        targets[0, 0] = 0.5
        targets[10, 1] = 0.4
        played = play_account(bench, replay(targets), SHARED)
        weights = played.weights.to_numpy()

        returns = _returns_of_shifts(bench, played, SHARED, np.arange(89), np.array([40]))

        by_hand = np.full((89, 2), np.nan)
        by_hand[0] = weights[49]
        by_hand[40] = [weights[0, 0], 0.0]
        by_hand[50, 1] = weights[10, 1]
        expected = play_account(bench, replay(by_hand), SHARED).account["return"].to_numpy()
        assert returns[:, 0] == pytest.approx(expected, abs=1e-13)

    def test_the_rank_of_a_rule_without_skill_is_uniform_and_ties_count_half(self):
        """Of 60 random rules no more are in a tail than chance allows: 10 % on each side, within 3 standard errors."""
        bench = bench_of(*(walking_market(name, seed) for seed, name in enumerate("ABC")))
        shares = []
        for seed in range(60):
            targets = np.random.default_rng(seed).uniform(0, 0.3, (89, 3))
            played = play_account(bench, replay(targets), SHARED)
            ratios = shifted_accounts(bench, played, SHARED, seed, runs=40)
            shares.append(rank_among(played.account["return"], ratios).share)
        shares = np.array(shares)

        assert 0 < (shares < 0.1).mean() + (shares > 0.9).mean() < 0.2 + 3 * np.sqrt(0.2 * 0.8 / 60)

        constant = play_account(bench, replay(np.full((89, 3), 1 / 3)), SHARED)
        rank = rank_among(constant.account["return"], shifted_accounts(bench, constant, SHARED, 0))

        assert rank.equal == rank.copies
        assert rank.share == 0.5

    def test_ratios_are_those_of_the_copies(self, three):
        played = play_account(three, replay(random_targets(three)), SHARED)
        circle = np.flatnonzero(three.quotes.listed.all(axis=1))
        shifts = 1 + np.random.default_rng(5).permutation(len(circle) - 1)[:7]
        expected = sharpe_ratio(_returns_of_shifts(three, played, SHARED, circle, shifts), 1.0)

        np.testing.assert_array_equal(shifted_accounts(three, played, SHARED, 5, runs=7), expected)
        assert len(np.unique(shifts)) == 7

    def test_symbols_that_are_never_listed_together_have_no_circle(self):
        first = walking_market("A", 0, kept=np.arange(0, 60))
        second = walking_market("B", 1, kept=np.arange(55, 110))
        bench = bench_of(first, second)
        played = play_account(bench, replay(np.full(bench.quotes.listed.shape, 0.5)), SHARED)

        assert len(shifted_accounts(bench, played, SHARED, 0)) == 0


@pytest.fixture(scope="module")
def synthetic():
    """The test period of the synthetic market."""
    config = MarketConfig(
        data="synthetic",
        train=("1999-01-01", "2008-12-31"),
        validation=("2009-01-01", "2010-12-31"),
        test=("2011-01-01", "2018-12-31"),
    )
    return Bench.of(segments_of(config)["test"], TradingCosts())


class TestSyntheticMarket:
    """What shared cash is worth where the law is known: 2011 to 2018, 20 symbols, 1 basis point."""

    @staticmethod
    def growth_and_sharpe(played):
        returns = played.account["return"].to_numpy()
        growth = 100 * 252 * np.log1p(returns).mean()
        return growth, np.sqrt(252) * returns.mean() / returns.std(ddof=1)

    def test_the_rule_that_knows_the_law_gains_by_shared_cash(self, synthetic):
        decide = informed(synthetic.segments, synthetic.costs)
        targets = targets_of(backtest(synthetic.segments, synthetic.costs, decide), synthetic)
        divided = play_account(synthetic, replay(targets / 20), SHARED)
        shared = play_account(synthetic, replay(targets), SHARED)

        assert self.growth_and_sharpe(divided) == pytest.approx((15.13, 7.13), abs=0.01)
        assert self.growth_and_sharpe(shared) == pytest.approx((20.91, 7.01), abs=0.01)

    def test_rules_that_know_nothing(self, synthetic):
        daily = play_account(synthetic, equal_weights_every(synthetic), SHARED)
        once = play_account(synthetic, bought_once(synthetic), SHARED)
        inverse = play_account(synthetic, inverse_volatility(synthetic), SHARED)

        assert self.growth_and_sharpe(daily) == pytest.approx((3.37, 0.63), abs=0.01)
        assert self.growth_and_sharpe(once) == pytest.approx((4.51, 0.76), abs=0.01)
        assert self.growth_and_sharpe(inverse) == pytest.approx((12.24, 3.17), abs=0.01)


def test_rows_of_positions_have_the_date_of_the_decision_whatever_bars_a_symbol_has():
    """B has no bars on days 50 to 57: its rows there are decided at A's closes, a date each."""
    kept = np.setdiff1d(np.arange(110), np.arange(50, 58))
    segments = [segment_of(walking_market("A", 0)), segment_of(walking_market("B", 1, kept=kept))]
    bench = Bench.of(segments, TradingCosts())
    played = play_account(bench, equal_weights_every(bench), PortfolioConfig(cash="shared"))

    table = positions_of_account(played, bench)

    assert not table.duplicated(["date", "symbol"]).any()
    of_b = table[table["symbol"] == "B"]["date"].to_numpy()
    days = (of_b - np.datetime64("2001-01-01")) // np.timedelta64(1, "D")
    assert days.tolist() == list(range(20, 109))


@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_orders_count_in_the_equity_at_their_fill(fill):
    """Filled at a close: the equity of the row before, 1 for the first order. At an open: that at the row's close."""
    segments = [segment_of(walking_market("A", 0)), segment_of(walking_market("B", 1))]
    bench = Bench.of(segments, TradingCosts(fee_bp=5.0, fill=fill))
    played = play_account(bench, equal_weights_every(bench), PortfolioConfig(cash="shared"))
    equity = played.account["equity"].to_numpy()
    expected = equity
    if fill == "close":
        expected = np.concatenate([[1.0], equity[:-1]])

    table = trades_of_account(played, bench)

    assert len(table) == 2 * len(equity)
    np.testing.assert_array_equal(table["equity"].to_numpy(), np.repeat(expected, 2))
