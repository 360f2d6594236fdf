"""Laws of synthetic markets against closed forms, and the bars that are drawn from them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig, TradingCosts, TuneConfig
from market_regimes.evaluate.strategies import informed
from market_regimes.market.data import read_bars
from market_regimes.market.environment import MarketCore
from market_regimes.market.law import LAW, Law, _bridge, _chain, _variance_given, drawn_bars, law_of
from market_regimes.market.segments import read_data, segments_of
from market_regimes.market.shipped import shipped, synthetic
from market_regimes.tune.folds import folds_before_test

THREE = Law(
    drift=(0.1, 0.02, -0.3),
    std=(0.5, 1.0, 2.0),
    ends=(1 / 60, 1 / 30, 1 / 10),
    crash_share=0.02,
    crash=-5.0,
    index=(9.0, 20.0, 50.0),
    open_share=0.6,
)


def pooled(series):
    """Log returns in per cent of all series, and whether each day is stormy: the index at a close is of the next."""
    returns = np.concatenate([100 * np.diff(np.log(bars.close)) for bars in series])
    return returns, np.concatenate([bars.volatility_index[:-1] > 25 for bars in series])


def test_moments_and_stretches_are_those_of_the_law():
    """
    103,000 days. Variances: 0.49, and 2.8^2 + 8^2 / 250 (1 - 1 / 250) = 8.09. Calm lasts 120 days and stormy 50, so
    50 / 170 of the days are stormy. The mean of n days is within three standard errors, std / sqrt(n).
    """
    returns, stormy = pooled(synthetic())

    for days, mean, variance in ((~stormy, 0.08, 0.49), (stormy, -0.182, 8.09)):
        assert returns[days].mean() == pytest.approx(mean, abs=3 * np.sqrt(variance / days.sum()))
        # The variance of a t with 4 degrees of freedom converges slowly.
        assert returns[days].var() == pytest.approx(variance, rel=0.1)

    assert stormy.mean() == pytest.approx(50 / 170, abs=0.02)
    assert (LAW.growth, LAW.ends) == (pytest.approx((0.08, -0.182)), (1 / 120, 1 / 50))

    ends = stormy[1:] != stormy[:-1]

    assert ends[~stormy[:-1]].mean() == pytest.approx(1 / 120, rel=0.1)
    assert ends[stormy[:-1]].mean() == pytest.approx(1 / 50, rel=0.1)


def parts_of(series, law):
    """
    Log returns in per cent until each open and from it on, of days of each regime, less what the law expects: its drift
    before the open, and the rest with its flash crashes after it.
    """
    parts = []
    for bars in series:
        overnight = 100 * np.log(bars.open[1:] / bars.close[:-1])
        intraday = 100 * np.log(bars.close[1:] / bars.open[1:])
        regime = np.abs(bars.volatility_index[:-1, None] - np.array(law.index)).argmin(axis=1)
        before = law.open_share * np.array(law.drift)
        after = np.array(law.growth) - before
        parts.append((regime, overnight - before[regime], intraday - after[regime]))
    return parts


class TestOpens:
    """Nobody earns or pays anything for trading at the open: what came before it predicts nothing."""

    @pytest.mark.parametrize("law", [LAW, THREE, LAW.weak], ids=["shipped", "three", "weak"])
    def test_the_night_predicts_neither_the_day_nor_its_sign(self, law):
        """Of 60 series: correlation, and mean return of the day after a rise less that after a fall; 0 within 3 SE."""
        series = [bars for seed in range(3) for bars in synthetic(seed=seed, law=law)]
        correlations = []
        by_sign = []
        for regime, overnight, intraday in parts_of(series, law):
            for number in range(len(law.drift)):
                days = regime == number
                correlations.append(np.corrcoef(overnight[days], intraday[days])[0, 1])
                by_sign.append((np.sign(overnight[days]) * intraday[days]).mean())

        for values in (np.array(correlations), np.array(by_sign)):
            assert abs(values.mean()) < 3 * values.std(ddof=1) / np.sqrt(len(values))

    @pytest.mark.parametrize("law", [LAW, THREE], ids=["shipped", "three"])
    def test_the_night_has_its_share_of_drift_and_variance(self, law):
        """Three tenths of 0.49 and of 2.8^2 where the law ships; a flash crash falls after the open."""
        series = [bars for seed in range(3) for bars in synthetic(seed=seed, law=law)]
        for number, std in enumerate(law.std):
            variances = []
            means = []
            for regime, overnight, _ in parts_of(series, law):
                days = regime == number
                variances.append((overnight[days] ** 2).mean())
                means.append(overnight[days].mean())
            for values, expected in ((variances, law.open_share * std**2), (means, 0.0)):
                error = np.std(values, ddof=1) / np.sqrt(len(values))
                assert abs(np.mean(values) - expected) < 3 * error

    def test_given_the_variance_of_a_day_both_parts_are_normal_and_the_whole_is_students_t(self):
        """t = Z / sqrt(V / 4): V is drawn after t, and has to have the law it would have had before."""
        rng = np.random.default_rng(0)
        noise = rng.standard_t(4, 200_000) / np.sqrt(2)
        variance = _variance_given(noise, rng)

        # 4 / V / 2 with V of 4 degrees of freedom; t over its own spread is normal.
        assert stats.kstest(2 / variance, stats.chi2(4).cdf).pvalue > 0.01
        assert stats.kstest(noise / np.sqrt(variance), stats.norm.cdf).pvalue > 0.01

        # The bridge cuts the normal number in two that know nothing of each other.
        until_then = _bridge(noise, variance, 0.3, rng)
        first = until_then / np.sqrt(0.3 * variance)
        second = (noise - until_then) / np.sqrt(0.7 * variance)
        assert stats.kstest(first, stats.norm.cdf).pvalue > 0.01
        assert stats.kstest(second, stats.norm.cdf).pvalue > 0.01
        assert abs(np.corrcoef(first, second)[0, 1]) < 3 / np.sqrt(len(first))
        assert abs(np.corrcoef(first**2, second**2)[0, 1]) < 3 / np.sqrt(len(first))

    def test_a_flash_crash_falls_after_the_open(self):
        law = Law(std=(0.01, 0.02), crash_share=0.5)
        (bars, *_) = synthetic(law=law)
        overnight = 100 * np.log(bars.open[1:] / bars.close[:-1])
        intraday = 100 * np.log(bars.close[1:] / bars.open[1:])

        assert np.abs(overnight).max() < 1
        assert (intraday < -7).sum() > 500

    def test_closes_do_not_depend_on_the_opens(self):
        """Closes of the first series and the last one, as they were before opens had random numbers."""
        (first, *_, last) = synthetic()

        assert first.close[[0, 1, 1000, -1]] == pytest.approx(
            [100.16928253605413, 100.61991496973619, 121.81337494171413, 26.544714609018506], rel=1e-12
        )
        assert last.close[[0, 1, 1000, -1]] == pytest.approx(
            [100.34211395958886, 100.5833473631976, 120.12264653143592, 33.41620315607015], rel=1e-12
        )

        (other, *_) = synthetic(law=Law(open_share=0.6))

        assert np.array_equal(other.close, first.close)
        assert not np.array_equal(other.open, first.open)
        assert first.open[0] == first.close[0]


class TestRegimes:
    def test_a_chain_by_hand(self):
        """Each stretch of three ends with 0.5: below 0.25 the next regime follows, else the one after it."""
        chance = np.array([0.0, 0.6, 0.1, 0.4, 0.3, 0.9, 0.24])

        assert _chain((0.5, 0.5, 0.5), chance).tolist() == [0, 0, 1, 0, 2, 2, 0]
        assert _chain((0.2, 0.5), chance).tolist() == [0, 0, 1, 0, 0, 0, 0]

    def test_shares_growth_and_spread_are_their_closed_forms(self):
        """
        Stretches of 60, 30 and 10 days: shares 0.6, 0.3, 0.1 of 100. Growth of the last -0.3 - 0.02 * 5 = -0.4, so the
        mean is 0.06 + 0.006 - 0.04 = 0.026 a day. Its variance is 4 + 25 * 0.02 * 0.98 = 4.49, and those of the others
        0.25 and 1.
        """
        assert THREE.shares == pytest.approx((0.6, 0.3, 0.1))
        assert THREE.growth == pytest.approx((0.1, 0.02, -0.4))

        series = [bars for seed in range(3) for bars in synthetic(seed=seed, law=THREE)]
        returns = np.concatenate([100 * np.diff(np.log(bars.close)) for bars in series])
        index = np.concatenate([bars.volatility_index[:-1] for bars in series])

        assert returns.mean() == pytest.approx(0.026, abs=0.01)
        for level, share, mean, variance, days in (
            (9.0, 0.6, 0.1, 0.25, 60),
            (20.0, 0.3, 0.02, 1.0, 30),
            (50.0, 0.1, -0.4, 4.49, 10),
        ):
            inside = index == level
            assert inside.mean() == pytest.approx(share, abs=0.02)
            assert returns[inside].mean() == pytest.approx(mean, abs=3 * np.sqrt(variance / inside.sum()))
            assert returns[inside].var() == pytest.approx(variance, rel=0.1)
            assert (index[1:] != index[:-1])[inside[:-1]].mean() == pytest.approx(1 / days, rel=0.1)

    def test_from_one_regime_the_others_follow_equally_often(self):
        series = [bars for seed in range(3) for bars in synthetic(seed=seed, law=THREE)]
        for level, others in ((9.0, (20.0, 50.0)), (20.0, (9.0, 50.0)), (50.0, (9.0, 20.0))):
            followers = []
            for bars in series:
                index = bars.volatility_index
                changes = (index[:-1] == level) & (index[1:] != level)
                followers += index[1:][changes].tolist()
            share = np.mean(np.array(followers) == others[0])
            assert abs(share - 0.5) < 3 * 0.5 / np.sqrt(len(followers))

    def test_the_nearest_index_tells_the_regime(self):
        assert THREE.regimes_of(np.array([9.0, 14.0, 15.0, 34.0, 36.0, 50.0])).tolist() == [0, 0, 1, 1, 2, 2]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (dict(drift=(0.1, 0.2, 0.3)), "a drift, std, end and index of each"),
            (dict(drift=(0.1,), std=(1.0,), ends=(0.1,)), "at least two regimes"),
            (dict(index=(20.0, 20.0)), "another index in each regime"),
            (dict(std=(0.0, 1.0)), "std above 0"),
            (dict(ends=(0.0, 0.1)), r"ends within \(0, 1\]"),
            (dict(crash_share=1.0), r"within \[0, 1\), got 1.0 and 0.3"),
            (dict(open_share=-0.1), r"within \[0, 1\), got 0.004 and -0.1"),
        ],
    )
    def test_a_law_that_is_none_is_refused(self, options, sentence):
        with pytest.raises(ValueError, match=sentence):
            Law(**options)


class TestDrawnLaws:
    def test_a_seed_gives_one_law_and_others_other_laws(self):
        laws = [Law.drawn(seed) for seed in range(40)]

        assert laws[7] == Law.drawn(7)
        assert len({law.drift for law in laws}) == 40
        assert {len(law.drift) for law in laws} == {2, 3}
        for law in laws:
            assert law.growth[0] > 0 > law.growth[-1]
            assert sorted(law.index) == list(law.index)
            assert len(set(np.digitize(law.index, [15, 25, 40]))) == len(law.index)

    def test_the_index_of_a_drawn_law_lies_up_to_a_third_above_the_volatility(self):
        premiums = []
        for seed in range(50):
            law = Law.drawn(seed)
            of_regimes = np.array(law.index) / (np.sqrt(252) * np.array(law.std))
            assert np.ptp(of_regimes) < 1e-12
            premiums.append(of_regimes[0])

        assert 1.0 < min(premiums) < 1.05
        assert 1.25 < max(premiums) < 1.3

    def test_the_configuration_draws_a_law_and_its_series(self):
        read = shipped("synthetic", law_seed=3)
        by_hand = synthetic(seed=3, law=Law.drawn(3))

        assert [law_of(bars) for bars in read] == [Law.drawn(3)] * 20
        assert all(np.array_equal(a.close, b.close) for a, b in zip(read, by_hand, strict=True))

        segments = segments_of(MarketConfig("synthetic", law_seed=3))["test"]

        assert segments[0].market.law == Law.drawn(3)
        assert np.array_equal(segments[0].market.close, read[0].close)

    def test_weak_symbols_of_a_drawn_law_have_a_quarter_of_its_calm_drift(self):
        strong, weak, *_ = shipped("synthetic_choice", law_seed=3)

        assert law_of(strong) == Law.drawn(3)
        assert law_of(weak).drift[0] == pytest.approx(law_of(strong).drift[0] / 4)
        assert law_of(weak).index[0] == pytest.approx(law_of(strong).index[0] * 1.6)
        assert law_of(weak).drift[1:] == law_of(strong).drift[1:]

    def test_the_informed_rule_knows_it(self):
        """0.1 pays its costs of 2 bp a stretch, 0.02 pays 2 / 30 bp, and -0.4 does not."""
        read = [drawn_bars(f"s{i}", "synthetic", THREE, np.random.SeedSequence(i)) for i in range(2)]
        period = segments_of(MarketConfig("synthetic"), read=read)["test"]
        core = MarketCore(period, 2, episode_bars=None)

        for fee, wanted in ((1.0, {9.0: 1, 20.0: 1, 50.0: 0}), (40.0, {9.0: 1, 20.0: 0, 50.0: 0})):
            rule = informed(period, TradingCosts(fee_bp=fee))
            for _ in range(200):
                known = core.known()
                assert rule(known).tolist() == [wanted[index] for index in known.index]
                core.step(np.zeros(2))

    def test_a_seed_of_no_law_is_refused(self):
        """By every command that reads data of its own: train and data, compare, tune."""
        index = MarketConfig("sp500", law_seed=3)
        sentence = "market.law_seed draws a law of synthetic, .*: the data are sp500"

        with pytest.raises(ValueError, match=sentence):
            read_data(index)
        with pytest.raises(ValueError, match=f"{sentence}, nasdaq"):
            folds_of(CompareConfig(markets=["sp500", "nasdaq"]), index)
        with pytest.raises(ValueError, match=sentence):
            folds_before_test(TuneConfig(), index)
        with pytest.raises(ValueError, match=r"market\.law_seed must be at least 0, got -1"):
            MarketConfig("synthetic", law_seed=-1)

    def test_an_agent_of_a_drawn_law_reads_other_data(self):
        """As ``evaluate RUN --data FILES`` does with the configuration of its run."""
        (bars,) = read_bars(replace(MarketConfig("synthetic", law_seed=3), data="sp500"))

        assert bars.symbol == "S&P 500"
        assert law_of(bars) is None

    def test_nobody_knows_the_law_of_an_index(self):
        (bars,) = shipped("sp500")

        assert law_of(bars) is None
