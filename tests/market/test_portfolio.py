"""One account for several symbols; oracles: today's core, plain loops, a ledger of shares and cash."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import segment_of, walking_market

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.equal_weights import equal_weights
from market_regimes.market.allocation import Allocation
from market_regimes.market.environment import MarketCore
from market_regimes.market.portfolio import PortfolioCore, Quotes

FREE = TradingCosts(fee_bp=0.0, financing_rate=0.0)
SHARED = PortfolioConfig(cash="shared")
EVERYTHING = TradingCosts(-2.0, 3.0, fee_bp=10.0, slippage_bp=4.0, financing_rate=0.3, cash_rate=0.2)
CURRENCY = TradingCosts(-1.0, 2.0, fee_bp=3.0, start_equity=1e4, min_fee=1.0, fee_per_share=0.01)


def account_of(segments, costs, config=SHARED, n_accounts=1, rates=None, episode_rows=None):
    quotes = Quotes.of(segments, costs, rates)
    return PortfolioCore(quotes, costs, Allocation(config, quotes.symbols, costs), n_accounts, episode_rows)


def played(account, targets):
    """The steps of one account, one per row of targets."""
    return [account.step(row[None, :]) for row in targets]


def growth_of(segments, costs, targets, config=SHARED):
    """Growth of each row."""
    return np.array([step.growth[0] for step in played(account_of(segments, costs, config), targets)])


class TestOneSymbol:
    """An account of one symbol is today's core."""

    @pytest.mark.parametrize("fill", ["next_open", "close"])
    @pytest.mark.parametrize("costs", [FREE, TradingCosts(fee_bp=5.0), EVERYTHING, CURRENCY])
    @pytest.mark.parametrize("seed", range(4))
    def test_every_figure_has_the_bits_of_the_core(self, seed, costs, fill):
        costs = replace(costs, fill=fill)
        segment = segment_of(walking_market("A", seed))
        core = MarketCore([segment], 8, costs, episode_bars=None)
        account = account_of([segment], costs, n_accounts=8)
        rng = np.random.default_rng(seed)

        for _ in range(89):
            targets = rng.uniform(-3, 4, 8)
            expected = core.step(targets)
            step = account.step(targets[:, None])

            for name in ("growth", "gross_growth", "terminated", "truncated", "reward"):
                np.testing.assert_array_equal(getattr(step, name), getattr(expected, name))
            np.testing.assert_array_equal(step.trade[:, 0], expected.trade)
            np.testing.assert_array_equal(step.cost[:, 0], expected.cost)
            np.testing.assert_array_equal(account.weights[:, 0], core.position)
            np.testing.assert_array_equal(account.equity, core.equity)

        assert step.truncated.all() or step.terminated.any()

    def test_ruin_ends_with_its_loss_and_the_floor_is_told_apart(self):
        """Ten times long with a price that halves: equity 1 + 10 * -0.5 is below the floor of 0.01."""
        market = walking_market("A", 0, bars=40)
        close = market.close.copy()
        close[25:] = close[24] / 2
        market = replace(market, close=close, open=np.concatenate([close[:1], close[:-1]]))
        account = account_of([segment_of(market)], TradingCosts(-10.0, 10.0, fee_bp=0.0, financing_rate=0.0))
        account.weights[:] = 0.0
        steps = [account.step(np.array([[10.0 if t == 4 else 0.0]])) for t in range(5)]

        assert steps[-1].terminated[0]
        assert not steps[-1].truncated[0]
        assert account.equity[0] == pytest.approx(0.01)
        assert steps[-1].contribution[0, 0] == pytest.approx(-5.0)
        assert steps[-1].cash_contribution[0] == pytest.approx(5.0 - 0.99)


class TestPlainLoops:
    """Accounts that a few lines of pandas or Python keep as well."""

    def test_bought_once_and_never_touched_is_the_mean_of_the_price_ratios(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABC")]
        targets = np.full((89, 3), np.nan)
        targets[0] = [0.2, 0.3, 0.5]

        growth = growth_of(segments, TradingCosts(fee_bp=10.0), targets)

        # 1 is spent on orders worth 1 - c that cost c: c = 0.001 (1 - c).
        left = 1 / 1.001
        ratios = [s.market.close[-1] / s.market.open[21] for s in segments]
        expected = left * (0.2 * ratios[0] + 0.3 * ratios[1] + 0.5 * ratios[2])

        assert growth.prod() == pytest.approx(expected, rel=1e-13)

    def test_daily_equal_weights_at_the_close_with_their_turnover(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABCD")]
        costs = TradingCosts(fee_bp=20.0, fill="close")
        steps = played(account_of(segments, costs), np.full((89, 4), 0.25))

        closes = pd.DataFrame({s.market.symbol: s.market.close[20:] for s in segments})
        returns = closes.pct_change().iloc[1:]
        equity = 1.0
        weights = pd.Series(0.0, index=closes.columns)
        turnover = []
        for _, today in returns.iterrows():
            cost = 0.0
            for _ in range(60):
                trade = 0.25 * (1 - cost) - weights
                cost = 0.002 * trade.abs().sum()
            turnover.append(trade.abs().sum())
            equity *= (1 - cost) * (1 + 0.25 * today.sum())
            weights = 0.25 * (1 + today) / (1 + 0.25 * today.sum())

        assert np.prod([step.growth[0] for step in steps]) == pytest.approx(equity, rel=1e-13)
        assert [np.abs(step.trade).sum() for step in steps] == pytest.approx(turnover, rel=1e-11)

    @pytest.mark.parametrize("fill", ["next_open", "close"])
    def test_daily_equal_weights_are_those_of_the_benchmark(self, fill):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("ABCD")]
        costs = TradingCosts(fee_bp=7.0, fill=fill)
        growth = growth_of(segments, costs, np.full((89, 4), 0.25))
        benchmark = joint(equal_weights(segments, costs))["return"]

        assert growth - 1 == pytest.approx(benchmark.to_numpy(), abs=1e-14)

    def test_rates_by_symbol_are_paid_by_their_symbols(self):
        """Of 1 of equity 0.5 goes into each: c = 0.5 (1 - c) (0.01 + 0.02), so c = 0.015 / 1.015."""
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        account = account_of(segments, FREE, rates={"A": 100.0, "B": 200.0})
        step = account.step(np.array([[0.5, 0.5]]))
        cost = 0.015 / 1.015

        assert step.cost[0] == pytest.approx([0.005 * (1 - cost), 0.01 * (1 - cost)], rel=1e-13)

    def test_least_fees_of_several_symbols_add_up(self):
        """K times 1,000 of equity; two orders of half of it cost 5 each: 10 of 2,000."""
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        costs = TradingCosts(fee_bp=0.0, start_equity=1000.0, min_fee=5.0)
        step = account_of(segments, costs).step(np.array([[0.5, 0.5]]))

        assert step.cost[0] == pytest.approx([0.0025, 0.0025], rel=1e-13)
        assert step.trade[0] == pytest.approx([0.5 * 0.995] * 2, rel=1e-13)

    def test_no_account_pays_more_than_it_has(self):
        """Two fees of 90 of 200 leave a tenth; two more would be 180 of 20."""
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        account = account_of(segments, TradingCosts(fee_bp=0.0, start_equity=100.0, min_fee=90.0))

        account.step(np.array([[0.5, 0.5]]))
        step = account.step(np.array([[0.2, 0.2]]))

        assert step.cost.sum() / step.gross_growth[0] == pytest.approx(1.0, abs=0.05)

    def test_one_symbol_without_opening_prices_brings_all_fills_to_the_close(self):
        closes_only = replace(walking_market("B", 1), fill="close")
        quotes = Quotes.of([segment_of(walking_market("A", 0)), segment_of(closes_only)], FREE)

        assert not quotes.at_open
        assert (quotes.before_fill == 0).all()

    def test_a_symbol_rests_after_a_trade(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        account = account_of(segments, FREE, PortfolioConfig(cash="shared", minimum_holding=3))
        targets = np.where(np.arange(8)[:, None] % 2 == 0, 0.5, 0.2) * np.ones((1, 2))

        traded = [bool((step.trade != 0).any()) for step in played(account, targets)]

        assert traded == [True, False, False, True, False, False, True, False]

    def test_the_first_order_waits_for_nobody_even_where_the_rest_is_longer_than_the_period(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        account = account_of(segments, FREE, PortfolioConfig(cash="shared", minimum_holding=90), episode_rows=20)
        targets = np.full((2, 2), 0.5)

        assert account.rows == 89
        first = [bool((step.trade != 0).any()) for step in played(account, targets)]

        # A new episode has traded nothing either.
        account.reset(np.array([True]), np.random.default_rng(0))
        again = [bool((step.trade != 0).any()) for step in played(account, targets)]

        assert first == [True, False]
        assert again == [True, False]

    def test_a_symbol_without_a_bar_keeps_its_weight_and_leaves_less_room(self):
        """B is half of the account and has no bar: A may have what is left of 1."""
        kept = np.delete(np.arange(110), 23)
        markets = [walking_market("A", 0), walking_market("B", 1, kept=kept)]
        segments = [segment_of(market) for market in markets]
        steps = played(account_of(segments, FREE), np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]))

        assert steps[2].trade[0, 1] == 0.0
        assert steps[2].weights[0, 1] > 0.4
        assert steps[2].weights[0].sum() == pytest.approx(1.0, abs=1e-12)
        assert steps[2].bound["gross"][0]
        assert steps[3].weights[0] == pytest.approx([1.0, 0.0])

    def test_at_the_close_no_order_fills_at_a_price_of_an_earlier_day(self):
        """B has no bar on day 23, so its order of that close waits."""
        kept = np.delete(np.arange(110), 23)
        markets = [walking_market("A", 0), walking_market("B", 1, kept=kept)]
        account = account_of([segment_of(market) for market in markets], replace(FREE, fill="close"))
        steps = played(account, np.array([[0.5, 0.0]] * 3 + [[0.0, 0.5]] * 2))

        assert [step.trade[0, 1] for step in steps[:4]] == [0.0] * 4
        assert steps[4].trade[0, 1] == pytest.approx(0.5)

    def test_a_symbol_is_bought_once_listed_and_is_cash_once_delisted(self):
        late = walking_market("B", 1, kept=np.arange(20, 80))
        segments = [segment_of(walking_market("A", 0)), segment_of(late)]
        account = account_of(segments, FREE)
        steps = played(account, np.full((89, 2), 0.5))
        held = np.array([step.weights[0, 1] for step in steps])

        # Days 21 to 109 are rows 0 to 88. B has 21 bars by day 40: it is first held from the open of day 41.
        assert (held[:20] == 0).all()
        assert (held[20:59] > 0).all()
        assert (held[59:] == 0).all()
        assert np.array([step.weights[0, 0] for step in steps]) == pytest.approx(np.full(89, 0.5))

    def test_delisted_shares_are_paid_out_at_the_last_close(self):
        gone = walking_market("B", 1, kept=np.arange(0, 60))
        segments = [segment_of(walking_market("A", 0)), segment_of(gone)]
        targets = np.full((89, 2), np.nan)
        targets[0] = [0.0, 1.0]
        growth = growth_of(segments, FREE, targets)

        assert growth.prod() == pytest.approx(gone.close[59] / gone.open[21], rel=1e-13)
        assert growth[40:].tolist() == [1.0] * 49


def ledger(segments, costs, targets, weight_max, gross, caps):
    """
    Equity after each row of an account that counts shares and currency. ``caps`` are pairs of a set of symbols and the
    largest share of equity in them. No weight is kept from one row to the next.
    """
    rate = (costs.fee_bp + costs.slippage_bp) / 1e4
    low, high = costs.bounds
    high = min(high, weight_max)

    # The calendar.
    names = range(len(segments))
    bars = [{date: i for i, date in enumerate(s.market.dates.tolist())} for s in segments]
    rows = sorted({d for s in segments for d in s.market.dates[s.first + 1 : s.last + 1].tolist()})
    day_before = max(s.market.dates[s.first] for s in segments if s.market.dates[s.first + 1] == np.datetime64(rows[0]))

    # What is held.
    shares = [0.0] * len(segments)
    last_price = [0.0] * len(segments)
    cash = 1.0
    equities = []

    def cut(amounts, movable, equity):
        """Amounts of money within the limits; only the movable ones change."""
        amounts = list(amounts)
        for members, cap in [*caps, (set(names), gross)]:
            total = sum(abs(amounts[i]) for i in members)
            moving = sum(abs(amounts[i]) for i in members if movable[i])
            if total > cap * equity * (1 + 1e-12) and moving > 0:
                factor = max(0.0, (cap * equity - (total - moving)) / moving)
                amounts = [a * factor if i in members and movable[i] else a for i, a in enumerate(amounts)]
        return amounts

    def wanted(holdings, tradable, target, equity):
        ordered = [tradable[i] and not math.isnan(target[i]) for i in names]
        kept = [tradable[i] and not ordered[i] for i in names]
        amounts = [target[i] * equity if ordered[i] else holdings[i] for i in names]
        amounts = [min(max(a, low * equity), high * equity) if tradable[i] else a for i, a in enumerate(amounts)]
        amounts = cut(amounts, ordered, equity)
        return cut(amounts, kept, equity)

    for number, day in enumerate(rows):
        previous = rows[number - 1] if number else day_before.tolist()
        bar = [bars[i].get(day) if day in bars[i] else None for i in names]
        bar = [b if b is not None and segments[i].first < b <= segments[i].last else None for i, b in enumerate(bar)]

        # Paid out after the last bar.
        for i in names:
            if day > segments[i].market.dates[segments[i].last].tolist():
                cash += shares[i] * last_price[i]
                shares[i] = 0.0

        start = cash + sum(shares[i] * last_price[i] for i in names)
        if costs.fill == "next_open":
            tradable = [b is not None for b in bar]
            price = [segments[i].market.open[bar[i]] if tradable[i] else last_price[i] for i in names]
            overnight = [shares[i] * last_price[i] for i in names]
        else:
            now = [bars[i].get(previous) for i in names]
            tradable = [n is not None and segments[i].first <= n < segments[i].last for i, n in enumerate(now)]
            price = [segments[i].market.close[now[i]] if tradable[i] else last_price[i] for i in names]
            overnight = wanted([shares[i] * last_price[i] for i in names], tradable, targets[number], start)

        # Interest, then the fill.
        invested = sum(max(a, 0.0) for a in overnight)
        lent = max(0.0, start - invested)
        borrowed = max(0.0, invested - start) + sum(max(-a, 0.0) for a in overnight)
        cash += (lent * costs.cash_rate - borrowed * costs.financing_rate) / 252
        holdings = [shares[i] * price[i] for i in names]
        equity = cash + sum(holdings)
        paid = 0.0
        for _ in range(40):
            amounts = wanted(holdings, tradable, targets[number], equity - paid)
            before = paid
            turnover = sum(abs(a - h) for a, h in zip(amounts, holdings, strict=True))
            paid = rate * turnover
            if abs(before - paid) < 1e-17:
                break
        for i in names:
            if tradable[i]:
                cash -= amounts[i] - holdings[i]
                shares[i] = amounts[i] / price[i]
        cash -= paid

        # The close.
        for i in names:
            if bar[i] is not None:
                last_price[i] = segments[i].market.close[bar[i]]
            elif tradable[i]:
                last_price[i] = price[i]
        equities.append(cash + sum(shares[i] * last_price[i] for i in names))
    return np.array(equities)


def random_setting(seed):
    """Symbols with gaps, listings and ends, costs, limits and targets with missing ones."""
    rng = np.random.default_rng(seed)
    symbols = int(rng.integers(2, 6))
    segments = []
    for k in range(symbols):
        begin = 0 if k == 0 else int(rng.choice([0, 0, rng.integers(0, 15)]))
        end = 60 if k == 0 else int(rng.choice([60, 60, rng.integers(48, 60)]))
        days = np.arange(begin, end)
        present = rng.random(len(days)) > rng.choice([0.0, 0.2])
        present[: 23 if begin == 0 else 1] = True
        segments.append(segment_of(walking_market(f"S{k}", seed * 10 + k, bars=60, kept=days[present])))

    low = float(rng.choice([0.0, -0.5, -1.0]))
    costs = TradingCosts(
        position_low=low,
        position_high=float(rng.choice([1.0, 1.5])),
        fee_bp=float(rng.choice([0.0, 5.0, 50.0])),
        slippage_bp=float(rng.choice([0.0, 10.0])),
        financing_rate=float(rng.choice([0.0, 0.3])),
        cash_rate=float(rng.choice([0.0, 0.2])),
        fill=str(rng.choice(["next_open", "close"])),
    )
    names = [segment.market.symbol for segment in segments]
    groups = {name: str(rng.choice(["x", "y"])) for name in names}
    config = PortfolioConfig(
        cash="shared",
        gross=float(rng.choice([0.8, 1.0, 1.7])),
        weight_max=float(rng.choice([0.3, 1.0])),
        groups=groups,
        group_max={name: float(rng.choice([0.4, 5.0])) for name in set(groups.values())},
    )
    targets = rng.uniform(low, 1.0, (60, symbols)) * (rng.random((60, symbols)) > 0.2)
    targets[rng.random(targets.shape) < 0.3] = np.nan
    return segments, costs, config, targets


@pytest.mark.parametrize("block", range(10))
def test_the_account_is_a_ledger_of_shares_and_currency(block):
    """500 random accounts: gaps, listings, ends, costs, shorts, limits, both fills."""
    for seed in range(50 * block, 50 * block + 50):
        segments, costs, config, targets = random_setting(seed)
        account = account_of(segments, costs, config)
        targets = targets[: account.rows]
        names = [segment.market.symbol for segment in segments]
        caps = [
            ({i for i, name in enumerate(names) if config.groups[name] == group}, cap)
            for group, cap in config.group_max.items()
        ]

        expected = ledger(segments, costs, targets.tolist(), config.weight_max, config.gross, caps)

        equity = np.cumprod([step.growth[0] for step in played(account, targets)])
        assert equity == pytest.approx(expected, rel=1e-12, abs=0), seed


class TestProperties:
    """What holds of every account."""

    @pytest.mark.parametrize("seed", range(30))
    def test_permuted_symbols_change_nothing(self, seed):
        segments, costs, config, targets = random_setting(seed)
        order = np.random.default_rng(seed).permutation(len(segments))
        steps = played(account_of(segments, costs, config), targets[:30])
        permuted = played(account_of([segments[i] for i in order], costs, config), targets[:30][:, order])
        for step, other in zip(steps, permuted, strict=True):
            assert other.growth == pytest.approx(step.growth, abs=1e-13)
            assert other.weights == pytest.approx(step.weights[:, order], abs=1e-13)

    @pytest.mark.parametrize("seed", range(30))
    def test_contributions_and_the_cash_are_the_simple_return_and_the_cash_is_interest(self, seed):
        segments, costs, config, targets = random_setting(seed)
        costs = replace(costs, fill="next_open")
        account = account_of(segments, costs, config)
        for row in targets[:30]:
            listed = account.quotes.listed[account.row]
            invested = np.maximum(np.where(listed, account.weights, 0.0), 0.0).sum()
            step = account.step(row[None, :])
            interest = costs.cash_rate / 252 * max(1 - invested, 0.0)
            # The interest is at work from the fill on, so it contributes by itself alone.
            assert step.cash_contribution[0] == pytest.approx(interest, abs=1e-14)
            assert step.contribution.sum() + step.cash_contribution[0] == pytest.approx(step.growth[0] - 1, abs=1e-15)
            assert step.rewards_of_symbols.sum() == pytest.approx(100 * np.log(step.growth[0]), abs=1e-11)

    def test_copies_do_not_touch_each_other(self):
        segments, costs, config, targets = random_setting(3)
        two = account_of(segments, costs, config, n_accounts=2)
        alone = account_of(segments, costs, config)
        for row in targets[:30]:
            both = two.step(np.stack([row * 0.5, row]))
            assert both.growth[1] == pytest.approx(alone.step(row[None, :]).growth[0], rel=1e-15)

    def test_later_prices_change_no_earlier_figure(self):
        segments, costs, config, targets = random_setting(4)
        growth = growth_of(segments, costs, targets[:15], config)
        later = []
        for segment in segments:
            market = segment.market
            days = (market.dates - segments[0].market.dates[21]).astype("m8[D]").astype(int)
            factor = np.where(days > 15, 1.7, 1.0)
            later.append(
                replace(segment, market=replace(market, close=market.close * factor, open=market.open * factor))
            )

        np.testing.assert_array_equal(growth_of(later, costs, targets[:15], config), growth)

    def test_episodes_begin_in_cash_at_random_rows_and_end_after_theirs(self):
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        account = account_of(segments, FREE, n_accounts=50, episode_rows=10)
        account.reset(np.ones(50, dtype=bool), np.random.default_rng(0))

        assert account.row.min() == 0
        assert account.row.max() > 60

        for count in range(10):
            step = account.step(np.full((50, 2), 0.5))
            assert step.truncated.tolist() == [count == 9] * 50

    def test_costs_that_take_an_order_are_refused(self):
        costs = TradingCosts(0.0, 1.0, fee_bp=900.0)
        segments = [segment_of(walking_market(name, seed)) for seed, name in enumerate("AB")]
        with pytest.raises(ValueError, match=r"market\.portfolio\.gross=12"):
            account_of(segments, costs, PortfolioConfig(cash="shared", gross=12.0))
        with pytest.raises(ValueError, match="episode_rows must be at least 1"):
            account_of(segments, FREE, episode_rows=0)
