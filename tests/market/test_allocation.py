"""From targets to weights; oracles: hand arithmetic, plain loops, properties of random draws."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import segment_of, walking_market

from market_regimes.config import PortfolioConfig, TradingCosts
from market_regimes.market.allocation import Allocation, PastRisk, check_groups
from market_regimes.market.portfolio import PortfolioCore, Quotes

LONG_ONLY = TradingCosts()
LONG_SHORT = TradingCosts(-1.0, 1.0)
ROW = np.zeros(1, dtype=np.int64)


def projected(config, desired, held=None, tradable=None, costs=LONG_ONLY, risk=None):
    """Weights and names of the limits that bound, of one account."""
    symbols = list("ABCDEFGHIJ"[: len(desired)])
    allocation = Allocation(replace(config, cash="shared"), symbols, costs, risk)
    return projected_of(allocation, desired, held, tradable)


def projected_of(allocation, desired, held=None, tradable=None):
    """Weights and names of the limits that bound, of one account."""
    desired = np.array([desired], dtype=float)
    held = np.zeros_like(desired) if held is None else np.array([held], dtype=float)
    tradable = np.ones(desired.shape, dtype=bool) if tradable is None else np.array([tradable])
    wanted = allocation.outside_band(desired, held, tradable, ROW)
    projection = allocation.project(wanted, held, tradable, ROW)
    return projection.weights[0].tolist(), [name for name, cut in projection.bound.items() if cut[0]]


class TestByHand:
    """Weights whose arithmetic is in the test."""

    def test_targets_beyond_the_budget_are_scaled_to_it(self):
        weights, bound = projected(PortfolioConfig(cash="shared"), [1.0, 1.0, 0.5, 0.0])

        assert weights == pytest.approx([0.4, 0.4, 0.2, 0.0])
        assert bound == ["gross"]

    def test_targets_within_the_budget_stay(self):
        assert projected(PortfolioConfig(cash="shared"), [0.5, 0.3]) == ([0.5, 0.3], [])

    def test_a_name_is_capped_before_the_budget_is_shared(self):
        """1.0 -> 0.3; 0.3 + 0.5 = 0.8 fits."""
        config = PortfolioConfig(cash="shared", weight_max=0.3)

        assert projected(config, [1.0, 0.2]) == ([0.3, 0.2], ["weight"])

    def test_a_group_is_cut_and_the_rest_is_not(self):
        """0.4 + 0.2 of 0.3: halved. C and D have no cap."""
        config = PortfolioConfig(cash="shared", groups={"A": "tech", "B": "tech"}, group_max={"tech": 0.3})
        weights, bound = projected(config, [0.4, 0.2, 0.1, 0.2])

        assert weights == pytest.approx([0.2, 0.1, 0.1, 0.2])
        assert bound == ["group"]

    def test_the_longer_side_is_cut_to_the_net_limit(self):
        """0.8 - 0.2 = 0.6 of 0.4: the long side falls to 0.6, three quarters."""
        weights, bound = projected(PortfolioConfig(cash="shared", net=0.4), [0.4, 0.4, -0.2], costs=LONG_SHORT)

        assert weights == pytest.approx([0.3, 0.3, -0.2])
        assert bound == ["net"]

    def test_an_untradable_holding_takes_its_room_first(self):
        """0.5 stays, so two targets of 1 share the other half."""
        weights, bound = projected(PortfolioConfig(cash="shared"), [0.0, 1, 1], [0.5, 0, 0], [False, True, True])

        assert weights == pytest.approx([0.5, 0.25, 0.25])
        assert bound == ["gross"]

    def test_a_holding_without_an_order_takes_its_room_before_the_orders(self):
        weights, _ = projected(PortfolioConfig(cash="shared"), [np.nan, 1.0, 1.0], [0.5, 0.0, 0.0])

        assert weights == pytest.approx([0.5, 0.25, 0.25])

    def test_a_holding_beyond_its_limit_is_cut_without_an_order(self):
        config = PortfolioConfig(cash="shared", weight_max=0.4)

        assert projected(config, [np.nan, np.nan], [0.5, 0.2]) == ([0.4, 0.2], ["weight"])

    def test_a_holding_that_cannot_be_traded_stays_beyond_its_limit(self):
        config = PortfolioConfig(cash="shared", weight_max=0.4)

        assert projected(config, [0.0, 0.1], [0.5, 0.0], [False, True]) == ([0.5, 0.1], [])

    def test_a_target_whose_change_is_within_the_band_is_no_order_unless_it_closes(self):
        config = PortfolioConfig(cash="shared", no_trade_band=0.05)
        weights, _ = projected(config, [0.33, 0.36, 0.0], [0.3, 0.3, 0.02])

        assert weights == pytest.approx([0.3, 0.36, 0.0])

    def test_the_largest_targets_are_held_and_ties_go_to_what_is_held(self):
        config = PortfolioConfig(cash="shared", top_k=2)
        allocation = Allocation(config, list("ABCD"), LONG_SHORT)
        targets = np.array([[0.2, 0.5, -0.9, 0.5]])
        held = np.array([[0.0, 0.0, 0.0, 0.1]])

        assert allocation._largest(targets, held).tolist() == [[0.0, 0.0, -0.9, 0.5]]
        assert allocation._largest(targets, 0 * held).tolist() == [[0.0, 0.5, -0.9, 0.0]]

    def test_a_holding_without_an_order_is_one_of_the_top_k(self):
        allocation = Allocation(PortfolioConfig(cash="shared", top_k=2), list("ABC"), LONG_ONLY)
        desired = allocation._largest(np.array([[np.nan, 0.2, 0.9]]), np.array([[0.3, 0.0, 0.0]]))

        assert np.nan_to_num(desired, nan=7).tolist() == [[7, 0.0, 0.9]]

    def test_equal_risk_divides_the_budget_by_volatility(self):
        """Volatilities 0.1, 0.2, 0.4: shares 4, 2, 1 of 7; the target of 0 has none."""
        risk = PastRisk(np.array([[0.1, 0.2, 0.4, 0.1]]), np.zeros((2, 4)), np.array([1]), np.ones(1))
        config = PortfolioConfig(cash="shared", allocator="equal_risk")
        allocation = Allocation(config, list("ABCD"), LONG_ONLY, risk)
        never = np.full((1, 4), 99)
        desired = allocation.desired(np.array([[1.0, 1, 1, 0]]), ROW, np.zeros((1, 4)), ROW, never)

        assert desired[0] == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0.0])

    def test_orders_are_given_every_few_rows_and_rest_after_a_trade(self):
        config = PortfolioConfig(cash="shared", rebalance_every=3, minimum_holding=4)
        allocation = Allocation(config, list("AB"), LONG_ONLY)
        targets = np.full((1, 2), 0.5)
        held = np.zeros((1, 2))
        at = {
            age: allocation.desired(targets, ROW, held, np.array([age]), np.array([[3, 4]]))[0] for age in (0, 1, 2, 3)
        }
        for age in (0, 3):
            np.testing.assert_array_equal(at[age], [np.nan, 0.5])
        for age in (1, 2):
            assert np.isnan(at[age]).all()


class TestVolatility:
    """The volatility ex ante, against pandas and by hand."""

    def test_it_is_that_of_an_ewma_over_past_returns(self):
        """By a plain loop: the EWMA of squared portfolio returns, each symbol scaled to its own volatility."""
        segments = [segment_of(walking_market(name, seed, bars=300)) for seed, name in enumerate("ABC")]
        quotes = Quotes.of(segments, LONG_ONLY)
        risk = PastRisk.of(segments, quotes.stamps)
        weights = np.array([0.5, 0.3, -0.4])
        row = 200
        decision = row + 20

        returns = pd.DataFrame({s.market.symbol: s.market.close for s in segments}).pct_change().iloc[1 : decision + 1]
        decay = 0.94 ** np.arange(149)
        recent = returns.to_numpy()[::-1][:149]
        scale = [s.market.volatility[decision] / 100 for s in segments]
        variance = 0.0
        sizes = [np.sqrt(sum(decay * recent[:, k] ** 2) / decay.sum()) for k in range(3)]
        for share, day in zip(decay / decay.sum(), recent, strict=True):
            variance += share * sum(weights[k] * scale[k] * day[k] / sizes[k] for k in range(3)) ** 2

        measured = np.sqrt(((risk.factors(np.array([row]))[0] @ weights) ** 2).sum())

        assert measured == pytest.approx(np.sqrt(variance), rel=1e-12)

    def test_one_symbol_has_its_ewma_volatility_from_its_listing_on(self):
        late = walking_market("B", 1, bars=300, kept=np.arange(120, 300))
        segments = [segment_of(walking_market("A", 0, bars=300)), segment_of(late)]
        quotes = Quotes.of(segments, LONG_ONLY)
        factors = PastRisk.of(segments, quotes.stamps).factors(np.array([130]))[0]

        # Row 130 is decided on day 150, the 31st bar of B.
        assert np.sqrt((factors[:, 1] ** 2).sum()) == pytest.approx(late.volatility[30] / 100)

    def test_weights_are_scaled_to_the_limit(self):
        """Two symbols of volatilities 0.3 and 0.4 without correlation: 0.5 of 1 and 1. Of 25 % half is left."""
        risk = PastRisk(np.array([[0.3, 0.4]]), np.array([[0.1, 0.0], [0.0, 0.1]]), np.array([2]), np.ones(2))
        config = PortfolioConfig(cash="shared", volatility_limit=25.0, gross=2.0)
        weights, bound = projected(config, [1.0, 1.0], risk=risk)

        assert weights == pytest.approx([0.5, 0.5])
        assert bound == ["volatility"]

    def test_orders_are_scaled_beside_a_holding_that_stays(self):
        """0.09 + 0.16 s^2 = 0.13: s is a half."""
        risk = PastRisk(np.array([[0.3, 0.4]]), np.array([[0.1, 0.0], [0.0, 0.1]]), np.array([2]), np.ones(2))
        config = PortfolioConfig(cash="shared", volatility_limit=100 * np.sqrt(0.13), gross=2.0)
        weights, _ = projected(config, [0.0, 1.0], [1.0, 0.0], [False, True], risk=risk)

        assert weights == pytest.approx([1.0, 0.5])


def random_draw(seed):
    """A configuration, wanted weights, holdings that are within its limits, who can be traded, and the risk."""
    rng = np.random.default_rng(seed)
    symbols = int(rng.integers(2, 9))
    names = list("ABCDEFGHIJ"[:symbols])
    gross = float(rng.uniform(0.3, 2.0))
    low = float(rng.choice([0.0, -0.3]))
    groups = {name: str(rng.choice(["x", "y"])) for name in names if rng.random() < 0.8}
    config = PortfolioConfig(
        cash="shared",
        gross=gross,
        net=gross * float(rng.uniform(0.1, 1.0)),
        weight_min=low,
        weight_max=float(rng.uniform(0.1, 1.0)),
        groups=groups,
        group_max={name: float(rng.uniform(0.1, 1.0)) for name in set(groups.values())},
        volatility_limit=float(rng.uniform(5, 40)),
        no_trade_band=float(rng.choice([0.0, 0.02])),
    )
    window = rng.normal(0, 1, (30, symbols)) + rng.normal(0, 1, (30, 1))
    risk = PastRisk(rng.uniform(0.1, 0.6, (1, symbols)), window, np.array([30]), np.full(30, 30**-0.5))
    allocation = Allocation(config, names, LONG_SHORT, risk)
    all_tradable = np.ones((1, symbols), dtype=bool)
    everything = rng.uniform(-1.2, 1.2, (1, symbols))
    held = allocation.project(everything, 0 * everything, all_tradable, ROW).weights
    desired = rng.uniform(-1.2, 1.2, (1, symbols))
    desired[rng.random((1, symbols)) < 0.3] = np.nan
    tradable = rng.random((1, symbols)) < 0.7

    # Only what cannot be traded must be within the limits: a part of weights that are need not be.
    held = np.where(tradable, rng.uniform(-1.2, 1.2, (1, symbols)), held)
    return allocation, desired, held, tradable


def excesses(allocation, weights):
    """By how much weights exceed each limit, by plain sums."""
    config = allocation.config
    factors = allocation.risk.factors(ROW)[0]
    out = {
        "weight_min": config.weight_min - weights.min(),
        "weight_max": weights.max() - config.weight_max,
        "gross": sum(abs(weights)) - config.gross,
        "net": abs(sum(weights)) - config.net,
        "volatility": 100 * np.sqrt(sum((factors @ weights) ** 2)) - config.volatility_limit,
    }
    for group, cap in config.group_max.items():
        members = [
            abs(w) for name, w in zip(allocation.symbols, weights, strict=True) if config.groups.get(name) == group
        ]
        out[group] = sum(members) - cap
    return out


class TestRandomDraws:
    """Properties of 1,000 random draws each."""

    def test_limits_hold_where_the_untradable_holdings_alone_keep_them(self):
        attainable = 0
        for seed in range(1000):
            allocation, desired, held, tradable = random_draw(seed)
            alone = np.where(tradable, 0.0, held)[0]
            if max(excesses(allocation, alone).values()) > 1e-12:
                continue
            attainable += 1
            wanted = allocation.outside_band(desired, held, tradable, ROW)
            weights = allocation.project(wanted, held, tradable, ROW).weights[0]
            assert max(excesses(allocation, weights).values()) < 1e-9, seed
            np.testing.assert_array_equal(weights[~tradable[0]], held[0][~tradable[0]])

        assert attainable > 600

    def test_accounts_of_one_projection_do_not_touch_each_other(self):
        """Each of eight accounts has the weights that it has alone."""
        for seed in range(1000):
            allocation, desired, held, tradable = random_draw(seed)
            rng = np.random.default_rng(seed)
            shape = (8, desired.shape[1])
            wanted = np.where(rng.random(shape) < 0.3, np.nan, rng.uniform(-1.2, 1.2, shape))
            holdings = rng.uniform(-1.0, 1.0, shape)
            filled = rng.random(shape) < 0.7
            wanted[0] = desired
            holdings[0] = held
            filled[0] = tradable
            together = allocation.project(wanted, holdings, filled, np.zeros(8, dtype=int)).weights

            for k in range(8):
                one = slice(k, k + 1)
                alone = allocation.project(wanted[one], holdings[one], filled[one], ROW).weights
                assert together[one] == pytest.approx(alone, abs=1e-13), seed

    def test_projecting_twice_is_once(self):
        for seed in range(1000):
            allocation, desired, held, tradable = random_draw(seed)
            weights = allocation.project(desired, held, tradable, ROW).weights
            again = allocation.project(weights, held, tradable, ROW).weights
            if max(excesses(allocation, np.where(tradable, 0.0, held)[0]).values()) <= 1e-12:
                assert again == pytest.approx(weights, abs=1e-9), seed

    def test_permuted_symbols_are_permuted_weights(self):
        for seed in range(1000):
            allocation, desired, held, tradable = random_draw(seed)
            order = np.random.default_rng(seed).permutation(len(allocation.symbols))
            risk = replace(
                allocation.risk,
                volatility=allocation.risk.volatility[:, order],
                returns=allocation.risk.returns[:, order],
            )
            names = [allocation.symbols[i] for i in order]
            permuted = Allocation(replace(allocation.config, top_k=3), names, LONG_SHORT, risk)
            allocation.config = replace(allocation.config, top_k=3)
            long_ago = np.full(held.shape, 99)

            def weights_of(one, columns, desired=desired, held=held, tradable=tradable, long_ago=long_ago):
                wanted = one.desired(desired[:, columns], ROW, held[:, columns], ROW, long_ago)
                return one.project(wanted, held[:, columns], tradable[:, columns], ROW).weights

            expected = weights_of(allocation, np.arange(len(order)))[:, order]
            assert weights_of(permuted, order) == pytest.approx(expected, abs=1e-12), seed

    def test_targets_of_0_are_weights_of_0(self):
        for seed in range(1000):
            allocation, desired, held, _ = random_draw(seed)
            everyone = np.ones(held.shape, dtype=bool)
            wanted = allocation.outside_band(0 * np.nan_to_num(desired), held, everyone, ROW)
            projection = allocation.project(wanted, held, everyone, ROW)
            assert (projection.weights == 0).all()
            assert not any(cut.any() for cut in projection.bound.values())

    def test_a_cut_brings_a_weight_nearer_to_0_and_never_across(self):
        for seed in range(1000):
            allocation, desired, held, tradable = random_draw(seed)
            wanted = np.where(tradable & ~np.isnan(desired), desired, held)
            weights = allocation.project(desired, held, tradable, ROW).weights
            assert (np.abs(weights) <= np.abs(wanted) + 1e-15).all()
            assert (weights * wanted >= 0).all()


@pytest.mark.parametrize("allocator", ["budget", "equal_risk"])
def test_later_prices_change_no_weight(allocator):
    """With the volatilities and correlations of the past, up to the fill of row 60."""
    config = PortfolioConfig(cash="shared", allocator=allocator, volatility_limit=12.0, no_trade_band=0.01, top_k=2)
    targets = np.random.default_rng(0).uniform(0, 1, (60, 3))

    def weights_of(factor):
        segments = []
        for seed, name in enumerate("ABC"):
            market = walking_market(name, seed)
            late = np.arange(110) > 80
            close = np.where(late, market.close * factor, market.close)
            volatility = np.where(late, market.volatility * factor, market.volatility)
            opens = np.where(late, market.open * factor, market.open)
            segments.append(segment_of(replace(market, close=close, open=opens, volatility=volatility)))
        quotes = Quotes.of(segments, LONG_ONLY)
        allocation = Allocation(config, quotes.symbols, LONG_ONLY, PastRisk.of(segments, quotes.stamps))
        account = PortfolioCore(quotes, LONG_ONLY, allocation)
        return np.array([account.step(row[None, :]).weights[0] for row in targets])

    np.testing.assert_array_equal(weights_of(1.0), weights_of(3.0))


REFUSED = {
    "cash": ({"cash": "pooled"}, "market.portfolio.cash"),
    "allocator": ({"cash": "shared", "allocator": "best"}, "market.portfolio.allocator"),
    "gross": ({"cash": "shared", "gross": 0.0}, "market.portfolio.gross must be a finite number above 0, got 0.0"),
    "net": ({"cash": "shared", "net": -1.0}, "market.portfolio.net"),
    "net beyond gross": ({"cash": "shared", "net": 2.0, "gross": 1.0}, "market.portfolio.net=2 exceeds market.port"),
    "weight_min": ({"cash": "shared", "weight_min": 0.1}, "market.portfolio.weight_min"),
    "weight_max": ({"cash": "shared", "weight_max": -0.1}, "market.portfolio.weight_max"),
    "both 0": ({"cash": "shared", "weight_min": 0.0, "weight_max": 0.0}, "market.portfolio.weight_min and"),
    "group without cap": ({"cash": "shared", "groups": {"A": "x"}}, "market.portfolio.groups names x"),
    "cap without group": ({"cash": "shared", "group_max": {"x": 1.0}}, "market.portfolio.group_max caps x"),
    "cap below 0": (
        {"cash": "shared", "groups": {"A": "x"}, "group_max": {"x": -1.0}},
        "market.portfolio.group_max of x",
    ),
    "name that YAML takes for true": (
        {"cash": "shared", "groups": {True: "x"}, "group_max": {"x": 1.0}},
        "market.portfolio.groups and group_max: YAML reads a name as True: put it in quotes, as 'ON'",
    ),
    "top_k": ({"cash": "shared", "top_k": 0}, "market.portfolio.top_k must be at least 1, got 0"),
    "volatility_limit": ({"cash": "shared", "volatility_limit": 0.0}, "market.portfolio.volatility_limit"),
    "no_trade_band": ({"cash": "shared", "no_trade_band": 1.0}, "market.portfolio.no_trade_band"),
    "rebalance_every": ({"cash": "shared", "rebalance_every": 0}, "market.portfolio.rebalance_every"),
    "minimum_holding": ({"cash": "shared", "minimum_holding": 0}, "market.portfolio.minimum_holding"),
    "separate": ({"gross": 1.0}, "market.portfolio.gross needs market.portfolio.cash=shared"),
    "separate groups": ({"groups": {"A": "x"}, "group_max": {"x": 1}}, "market.portfolio.groups needs market.port"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_key_that_cannot_be_is_refused_by_name(name):
    keys, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=r"market\.portfolio") as refusal:
        PortfolioConfig(**keys)

    assert sentence in str(refusal.value)


def test_limits_that_contradict_what_may_be_held_are_refused():
    with pytest.raises(
        ValueError, match=r"market\.portfolio\.weight_min=0\.5 exceeds market\.portfolio\.weight_max=0\.1"
    ):
        Allocation(PortfolioConfig(cash="shared", weight_max=0.1), ["A"], TradingCosts(0.5, 1.0))
    with pytest.raises(ValueError, match=r"market\.portfolio\.net=3 exceeds market\.portfolio\.gross=1"):
        Allocation(PortfolioConfig(cash="shared", net=3.0), ["A"], LONG_ONLY)
    with pytest.raises(ValueError, match=r"market\.portfolio\.volatility_limit"):
        Allocation(PortfolioConfig(cash="shared", volatility_limit=9.0), ["A"], LONG_ONLY)


class TestGroups:
    """A mapping from symbols to groups that names other symbols than those at hand."""

    config = PortfolioConfig(
        cash="shared", groups={"AAPL": "tech", "JPM": "banks"}, group_max={"tech": 0.3, "banks": 1}
    )

    @pytest.mark.parametrize(
        ("symbols", "sentence"),
        [
            (["APPL", "JPM"], "market.portfolio.groups names AAPL, which the data lack: APPL is nearest"),
            (["aapl", "JPM"], "market.portfolio.groups names AAPL, which the data lack: aapl is nearest"),
            (["X", "JPM"], "market.portfolio.groups names AAPL, which the data lack: the symbols are X, JPM"),
        ],
    )
    def test_a_symbol_that_the_data_lack_is_refused_with_the_nearest_name(self, symbols, sentence):
        with pytest.raises(ValueError, match=r"market\.portfolio\.groups") as refusal:
            check_groups(self.config, symbols)

        assert str(refusal.value) == sentence

    def test_symbols_without_a_group_are_accepted_and_have_no_cap(self):
        """0.9 of technology is 0.3; the rest of the symbols keep their weights."""
        check_groups(self.config, ["JPM", "XOM", "AAPL"])
        weights, _ = projected_of(Allocation(self.config, ["XOM", "AAPL"], LONG_ONLY), [0.6, 0.9])

        assert weights == pytest.approx([0.6, 0.3])

    def test_the_mapping_may_name_more_symbols_than_an_account_has(self):
        weights, bound = projected_of(Allocation(self.config, ["AAPL"], LONG_ONLY), [0.9])

        assert weights == pytest.approx([0.3])
        assert bound == ["group"]
