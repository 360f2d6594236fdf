"""Orders in shares and currency; oracles: hand arithmetic, and limits counted in plain sums."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from builders import PERIODS_OF_600_BARS, segment_of, walking_market

from market_regimes import Agent
from market_regimes.config import MarketConfig, PortfolioConfig, RunConfig, TradingCosts
from market_regimes.market.allocation import Allocation
from market_regimes.market.costs import impact_of
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.portfolio import PortfolioCore, Quotes
from market_regimes.market.regimes import decay_of
from market_regimes.market.segments import segments_of
from market_regimes.run.algorithm import model_of
from market_regimes.run.folder import Configured
from market_regimes.run.orders import order_list, print_orders, read_held
from market_regimes.run.trained import trained_on

FREE = TradingCosts(fee_bp=0.0)
SHARED = PortfolioConfig(cash="shared")
IMPACT = TradingCosts(fee_bp=0.0, start_equity=1000.0, impact_coefficient=0.1)


def orders_of(targets, prices, equity, costs=FREE, config=SHARED, **options):
    allocation = Allocation(config, list(prices), costs)
    return order_list(allocation, costs, targets, prices, equity, **options)


class TestByHand:
    """Orders whose arithmetic is in the test."""

    def test_from_cash(self):
        """A: 60 % of 100,000 at 150 are 400 shares; B: 30,000 / 40 = 750; 10,000 stay."""
        orders = orders_of({"A": 0.6, "B": 0.3}, {"A": 150.0, "B": 40.0}, 100_000.0)

        assert orders.table["order"].tolist() == pytest.approx([400.0, 750.0])
        assert orders.table["value"].tolist() == pytest.approx([60_000.0, 30_000.0])
        assert orders.cash == 100_000.0
        assert orders.cash_after == pytest.approx(10_000.0)
        assert orders.bought == pytest.approx(90_000.0)
        assert orders.limits == []

    def test_from_what_is_held(self):
        """100 A at 150 and 1,000 B at 40 of 100,000: 45,000 is cash. 60 % and 10 %: 300 A more, 750 B less."""
        orders = orders_of({"A": 0.6, "B": 0.1}, {"A": 150.0, "B": 40.0}, 100_000.0, held={"A": 100.0, "B": 1000.0})

        assert orders.cash == pytest.approx(45_000.0)
        assert orders.table["weight"].tolist() == pytest.approx([0.15, 0.4])
        assert orders.table["order"].tolist() == pytest.approx([300.0, -750.0])
        assert orders.table["shares"].tolist() == pytest.approx([400.0, 250.0])
        assert orders.sold == pytest.approx(30_000.0)
        assert orders.cash_after == pytest.approx(30_000.0)

    def test_costs_leave_less_to_invest(self):
        """All of 100,000 at 10 bp: v + 0.001 v = 100,000, v = 99,900.0999; cash 0."""
        costs = TradingCosts(fee_bp=6.0, slippage_bp=4.0)
        orders = orders_of({"A": 1.0}, {"A": 100.0}, 100_000.0, costs)

        assert orders.table["value"].iloc[0] == pytest.approx(100_000 / 1.001)
        assert orders.cost == pytest.approx(100 / 1.001)
        assert orders.cash_after == pytest.approx(0.0, abs=1e-9)
        assert orders.table["target"].iloc[0] == pytest.approx(1.0)

    def test_least_fees_and_fees_per_share(self):
        """10 shares at 100: 10 bp are 1, 0.05 a share 0.5, so 1.5; the least fee is 2, slippage 1 on top."""
        costs = TradingCosts(
            fee_bp=10.0, slippage_bp=10.0, start_equity=1e5, min_fee=2.0, fee_per_share=0.05, financing_rate=0.0
        )
        orders = orders_of({"A": 0.0105}, {"A": 100.0}, 100_000.0, costs, lot=10.0)

        assert orders.table["order"].tolist() == [10.0]
        assert orders.cost == pytest.approx(3.0)
        assert orders.cash_after == pytest.approx(100_000 - 1000 - 3)

    def test_the_impact_on_prices_grows_with_the_root_of_the_order(self):
        """
        An order worth 1 costs 1e-5 of its value, so one of 90,000 in A costs 1e-5 * 300 * 90,000 = 270. In B, worth
        10,000 at twice the impact, it is 2e-5 * 100 * 10,000 = 20. Both are a little smaller, as they pay for it.
        """
        prices = {"A": 100.0, "B": 10.0}
        impact = {"A": 1e-5, "B": 2e-5}
        orders = orders_of({"A": 0.9, "B": 0.1}, prices, 100_000.0, IMPACT, impact=impact)

        first, second = orders.table["value"]
        assert first == pytest.approx(9 * second)
        assert orders.table["cost"].tolist() == pytest.approx([1e-5 * first**1.5, 2e-5 * second**1.5])
        assert orders.cost == pytest.approx(290, abs=2)
        assert first + second + orders.cost == pytest.approx(100_000)
        assert orders.cash_after == pytest.approx(0.0, abs=1e-7)

    def test_least_fees_are_paid_from_the_cash(self):
        """Two orders of half of 1,000 cost 5 each: 990 are left for them, and no cash is owed."""
        costs = TradingCosts(fee_bp=0.0, start_equity=50.0, min_fee=5.0)
        orders = orders_of({"A": 0.5, "B": 0.5}, {"A": 10.0, "B": 20.0}, 1000.0, costs)

        assert orders.table["value"].tolist() == pytest.approx([495.0, 495.0])
        assert orders.table["cost"].tolist() == pytest.approx([5.0, 5.0])
        assert orders.cash_after == pytest.approx(0.0)

    def test_a_short_position_is_closed_and_its_cash_is_not_money_to_spend(self):
        """-10 of A at 50 leave 1,500 in cash of 1,000; nothing may be short, so 10 are bought, and 500 of B fit."""
        held = {"A": -10.0}
        orders = orders_of({"A": np.nan, "B": 0.5}, {"A": 50.0, "B": 5.0}, 1000.0, held=held)

        assert orders.cash == pytest.approx(1500.0)
        assert orders.table["order"].tolist() == pytest.approx([10.0, 100.0])
        assert orders.cash_after == pytest.approx(500.0)
        assert orders.limits == ["weight"]

    def test_shares_worth_more_than_the_equity_are_cut_to_the_limits_and_noted(self):
        """150 of A at 10 of an equity of 1,000: 500 are borrowed. Of a gross limit of 1, 50 are sold."""
        orders = orders_of({"A": 1.0}, {"A": 10.0}, 1000.0, held={"A": 150.0})

        assert orders.cash == pytest.approx(-500.0)
        assert orders.table["order"].tolist() == pytest.approx([-50.0])
        assert orders.cash_after == pytest.approx(0.0)
        assert orders.warnings[0].startswith("the shares held are worth 1500.00, more than the equity of 1000.00")

    def test_fewer_shares_than_a_lot_that_exceed_a_limit_are_noted(self):
        """60 of A at 10 of 1,000 where 0.4 is the limit: 20 of a lot of 100 cannot be sold."""
        config = PortfolioConfig(cash="shared", weight_max=0.4)
        orders = orders_of({"A": 1.0}, {"A": 10.0}, 1000.0, config=config, held={"A": 60.0}, lot=100.0)

        assert orders.table["order"].tolist() == [0.0]
        assert orders.warnings == [
            "whole lots of 100 shares leave A beyond a limit: fewer shares than a lot remain",
        ]

    def test_fewer_shares_than_a_lot_that_take_a_place_of_the_largest_are_noted(self):
        """Of two places one: A is sold for B, but 5 of its 25 shares are fewer than a lot of 10."""
        config = PortfolioConfig(cash="shared", top_k=1)
        targets = {"A": 0.1, "B": 0.4, "C": 0.0}
        held = {"A": 25.0, "C": 3.0}
        options = dict(config=config, held=held, lot=10.0)
        orders = orders_of(targets, {"A": 10.0, "B": 10.0, "C": 10.0}, 1000.0, **options)

        assert orders.table["order"].tolist() == [-20.0, 40.0, 0.0]
        assert orders.warnings == [
            "whole lots of 10 shares leave A, C beyond a limit: fewer shares than a lot remain",
        ]

        # As many places as symbols: nothing is beyond them.
        places = replace(config, top_k=3)
        within = orders_of(targets, {"A": 10.0, "B": 10.0, "C": 10.0}, 1000.0, config=places, held=held, lot=10.0)
        assert within.warnings == []

    def test_a_symbol_of_which_nothing_is_held_needs_no_bars(self):
        orders = orders_of({"A": 0.5}, {"A": 10.0}, 1000.0, held={"SOLD": 0.0})

        assert orders.table["order"].tolist() == pytest.approx([50.0])

    def test_whole_lots_are_rounded_towards_no_trade(self):
        """33.3 % of 1,000 at 30 are 11.1 shares, one lot of 10. B: 25 of 50 shares to sell, two lots."""
        orders = orders_of({"A": 0.333, "B": 0.25}, {"A": 30.0, "B": 10.0}, 1000.0, held={"B": 50.0}, lot=10.0)

        assert orders.table["order"].tolist() == [10.0, -20.0]
        assert orders.cash_after == pytest.approx(500 - 300 + 200)

    def test_a_target_without_a_number_is_no_order(self):
        orders = orders_of({"A": np.nan, "B": 0.5}, {"A": 10.0, "B": 10.0}, 1000.0, held={"A": 30.0, "B": 0.0})

        assert orders.table["order"].tolist() == pytest.approx([0.0, 50.0])

    def test_the_limits_that_cut_are_named(self):
        """Both want 1; a name may be 0.7, both 1: 0.5 each."""
        config = PortfolioConfig(cash="shared", weight_max=0.7)
        orders = orders_of({"A": 1.0, "B": 1.0}, {"A": 10.0, "B": 20.0}, 1000.0, config=config)

        assert orders.limits == ["weight", "gross"]
        assert orders.table["order"].tolist() == pytest.approx([50.0, 25.0])

    def test_rounded_sales_do_not_leave_purchases_unpaid(self):
        """
        A: 55 of 100 shares at 10 are sold, in lots 50, so that 50 are kept, and not 45. The 550 of B at 1 would take 50
        more than there is: 500 are bought.
        """
        orders = orders_of({"A": 0.45, "B": 0.55}, {"A": 10.0, "B": 1.0}, 1000.0, held={"A": 100.0}, lot=10.0)

        assert orders.table["order"].tolist() == [-50.0, 500.0]
        assert orders.cash_after == pytest.approx(0.0)

    def test_purchases_lose_lots_before_sales_gain_them(self):
        """A: 15.5 of 100 shares at 10 are sold, in lots 10, and 900 are kept. For B at 1 there is 100 of the 155."""
        orders = orders_of({"A": 0.845, "B": 0.155}, {"A": 10.0, "B": 1.0}, 1000.0, held={"A": 100.0}, lot=10.0)

        assert orders.table["order"].tolist() == [-10.0, 100.0]

    def test_the_largest_purchase_loses_the_lots_that_cannot_be_paid(self):
        """Of C at 10 a lot is sold in place of 15 shares. The 50 are missing for A, of which 350 at 1 are wanted."""
        targets = {"A": 0.35, "B": 0.6, "C": 0.05}
        prices = {"A": 1.0, "B": 1.0, "C": 10.0}
        orders = orders_of(targets, prices, 1000.0, held={"B": 500.0, "C": 20.0}, lot=10.0)

        assert orders.table["order"].tolist() == [300.0, 100.0, -10.0]
        assert orders.cash_after == pytest.approx(0.0)

    def test_a_sale_that_a_limit_asks_for_is_a_lot_larger(self):
        """A cap of 0.45 of 1,000 is 45 shares at 10: of 100 six lots are sold."""
        config = PortfolioConfig(cash="shared", weight_max=0.45)
        orders = orders_of({"A": 1.0}, {"A": 10.0}, 1000.0, config=config, held={"A": 100.0}, lot=10.0)

        assert orders.table["order"].tolist() == [-60.0]

    def test_the_printed_table_has_sums_cash_and_limits(self, capsys):
        print_orders(orders_of({"A": 1.0, "B": 1.0}, {"A": 10.0, "B": 20.0}, 1000.0))
        text = capsys.readouterr().out

        assert "+1000.00" in text
        assert "after the orders 0.00" in text
        assert "limits that cut: gross" in text

    def test_a_warning_that_symbols_share_is_printed_once(self, capsys):
        prices = {symbol: 10.0 for symbol in "ABCDEFG"}
        shared = [f"{symbol}: the bars end early" for symbol in prices]
        warnings = ["the cash is borrowed", *shared, "B: it is open"]
        print_orders(replace(orders_of({"A": 0.5}, prices, 1000.0), warnings=warnings))

        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
        assert printed == [
            "warning: the cash is borrowed",
            "warning: A, B, C, D, E and 2 more: the bars end early",
            "warning: B: it is open",
        ]


@pytest.mark.parametrize("seed", range(200))
def test_whole_lots_never_exceed_cash_or_a_limit(seed):
    rng = np.random.default_rng(seed)
    symbols = list("ABCDEF"[: rng.integers(2, 7)])
    low = float(rng.choice([0.0, -0.2]))
    costs = TradingCosts(min(low, 0.0), 1.0, fee_bp=20.0, start_equity=1e4, min_fee=1.0)
    groups = {symbol: str(rng.choice(["x", "y"])) for symbol in symbols}
    config = PortfolioConfig(
        cash="shared",
        weight_min=low,
        weight_max=float(rng.uniform(0.2, 1.0)),
        gross=float(rng.uniform(0.5, 1.0)),
        groups=groups,
        group_max={group: float(rng.uniform(0.2, 1.0)) for group in set(groups.values())},
    )
    prices = {symbol: float(rng.uniform(1, 200)) for symbol in symbols}
    held = {symbol: float(np.trunc(rng.uniform(low, 1) * 8000 / prices[symbol])) for symbol in symbols}
    targets = {symbol: float(rng.uniform(low, 1)) for symbol in symbols}
    lot = float(rng.choice([1.0, 5.0]))

    orders = orders_of(targets, prices, 10_000.0, costs, config, held=held, lot=lot)

    table = orders.table

    assert np.allclose(table["order"] / lot, np.round(table["order"] / lot))

    left = 10_000.0 - orders.cost
    values = table["shares"] * table["price"]

    assert values.abs().sum() <= config.gross * left * (1 + 1e-8)
    assert orders.cash_after >= -1e-6
    assert values.max() <= config.weight_max * left * (1 + 1e-8)
    assert values.min() >= low * left * (1 + 1e-8)

    for group, cap in config.group_max.items():
        members = [symbol for symbol in symbols if groups[symbol] == group]
        assert values[members].abs().sum() <= cap * left * (1 + 1e-8)

    assert orders.cash_after == pytest.approx(left - values.sum())


@pytest.mark.parametrize("fees", [dict(impact_coefficient=0.5), dict(min_fee=20.0, impact_coefficient=0.1)])
def test_orders_with_costs_in_currency_are_those_of_an_account_that_is_played(fees):
    """Three symbols with volumes, 30 rows filled at the close: the same trades to 2e-5 of equity, with costs paid."""
    segments = []
    for seed, symbol in enumerate("ABC"):
        market = walking_market(symbol, seed)
        volume = np.random.default_rng(seed).uniform(1e3, 1e5, len(market.close))
        segments.append(segment_of(replace(market, volume=volume)))
    costs = TradingCosts(fee_bp=5.0, fill="close", start_equity=1e5, financing_rate=0.0, **fees)
    allocation = Allocation(SHARED, list("ABC"), costs)
    account = PortfolioCore(Quotes.of(segments, costs), costs, allocation)
    rng = np.random.default_rng(7)

    for row in range(30):
        target = rng.uniform(0, 1, 3)
        equity = 3e5 * account.equity[0]
        bar = 20 + row
        price = np.array([segment.market.close[bar] for segment in segments])
        held = account.weights[0] * equity / price
        impact = [impact_of(segment.market, costs.impact_coefficient)[bar] for segment in segments]

        by_symbol = [dict(zip("ABC", values, strict=True)) for values in (target, price, held, impact)]
        orders = order_list(allocation, costs, *by_symbol[:2], equity, by_symbol[2], impact=by_symbol[3])
        step = account.step(target[None, :])

        np.testing.assert_allclose(orders.table["value"] / equity, step.trade[0], atol=2e-5)
        for segment, value, cost in zip(segments, orders.table["value"], orders.table["cost"], strict=True):
            market = segment.market
            share = abs(value) / (market.volume[bar] * market.close[bar])
            of_root = costs.impact_coefficient * market.volatility[bar] / 100 / np.sqrt(252) * np.sqrt(share)
            fee = max(5e-4 * abs(value), costs.min_fee)
            assert cost == pytest.approx(fee + of_root * abs(value))
        assert orders.cash_after >= -1e-9


def test_an_agent_prices_the_impact_by_the_last_bar(tmp_path, make_prices):
    """The square-root law on the file's last volume and volatility; without that volume nothing can be priced."""
    table = pd.concat([make_prices(600, seed=seed).assign(symbol=symbol) for seed, symbol in enumerate("AB")])
    table["volume"] = 1000.0 + 7 * np.arange(len(table))
    table.to_csv(tmp_path / "prices.csv", index=False)
    trading = TradingCosts(fee_bp=0.0, start_equity=1e4, impact_coefficient=0.2)
    market = MarketConfig(str(tmp_path / "prices.csv"), trading=trading, portfolio=SHARED, **PERIODS_OF_600_BARS)
    segments = segments_of(market)
    model = model_of(dict(seed=0, device="cpu"), MarketVecEnv(MarketCore(segments["train"], 2, trading)))
    with torch.no_grad():
        model.policy.action_net.bias += 0.4
    agent = Agent(model, Configured(RunConfig(), market, {}), trained_on(segments), 0)

    decay = decay_of(agent.trained["A"].bars_per_year)
    orders = agent.portfolio(table, equity=50_000.0)
    for symbol, row in orders.table.iterrows():
        bars = table[table["symbol"] == symbol]
        last = bars.iloc[-1]
        growth = np.diff(np.log(bars["close"]))
        weights = decay ** np.arange(len(growth))[::-1]
        volatility = np.sqrt(np.average(growth**2, weights=weights))
        root = np.sqrt(row["value"] / (last["volume"] * last["close"]))
        assert row["value"] > 1000
        assert row["cost"] == pytest.approx(0.2 * volatility * root * row["value"], rel=1e-4)

    table.iloc[-1, table.columns.get_loc("volume")] = np.nan
    with pytest.raises(ValueError, match="B has no volume at its last bar"):
        agent.portfolio(table, equity=50_000.0)


REFUSED = {
    "no price of a target": (dict(targets={"A": 0.5}, prices={"A": np.nan}, equity=1.0), "A cannot be priced"),
    "no volume for the impact": (
        dict(targets={"A": 0.5}, prices={"A": 2.0}, equity=1.0, costs=IMPACT, impact={"A": np.inf}),
        "A has no volume at its last bar, which market.trading.impact_coefficient needs",
    ),
    "no impact": (dict(targets={"A": 0.5}, prices={"A": 2.0}, equity=1.0, costs=IMPACT), "A has no volume"),
    "held in another case": (
        dict(targets={}, prices={"AAPL": 1.0, "JPM": 1.0}, equity=1.0, held={"aapl": 1.0}),
        "aapl is held, and has no bars: AAPL is nearest",
    ),
    "shares that are no number": (
        dict(targets={}, prices={"A": 1.0}, equity=1.0, held={"A": np.nan}),
        "A: a target and the shares held must be finite",
    ),
    "equity that is no number": (dict(targets={}, prices={"A": 1.0}, equity=np.nan), "the equity must be"),
    "negative price": (dict(targets={}, prices={"A": -1.0}, equity=1.0), "the price of A must be"),
    "no price of a holding": (
        dict(targets={"A": np.nan}, prices={"A": np.nan}, equity=1.0, held={"A": 1.0}),
        "A cannot be priced",
    ),
    "price of 0": (dict(targets={"A": np.nan}, prices={"A": 0.0}, equity=1.0), "the price of A must be"),
    "held, unknown": (dict(targets={}, prices={"A": 1.0}, equity=1.0, held={"Z": 1.0}), "Z is held"),
    "target, unknown": (dict(targets={"Z": 1.0}, prices={"A": 1.0}, equity=1.0), "Z has a target"),
    "equity": (dict(targets={}, prices={"A": 1.0}, equity=0.0), "the equity must be"),
    "lot": (dict(targets={}, prices={"A": 1.0}, equity=1.0, lot=0.0), "a lot must be"),
    "infinite": (dict(targets={"A": np.inf}, prices={"A": 1.0}, equity=1.0), "A: a target and the shares held"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_order_follows_from_is_refused(name):
    arguments, sentence = REFUSED[name]
    with pytest.raises(ValueError, match=sentence):
        orders_of(**arguments)


def test_a_symbol_that_nobody_holds_or_wants_needs_no_price():
    orders = orders_of({"A": 0.5, "B": 0.0}, {"A": 10.0, "B": np.nan}, 100.0)

    assert orders.table["order"].tolist() == pytest.approx([5.0, 0.0])


class TestHeld:
    """held.csv."""

    def test_it_is_read(self, tmp_path):
        path = tmp_path / "held.csv"
        path.write_text("symbol,shares\nNA,100\nB,-2.5\n", "utf-8")

        assert read_held(path) == {"NA": 100.0, "B": -2.5}

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("symbol,qty\nA,1\n", "the columns must be symbol,shares, they are symbol,qty"),
            ("symbol,shares\nA,1\nA,2\n", "the symbol A is there twice"),
            ("symbol,shares\nA,1\nB,many\n", "line 3 has no symbol with a number of shares"),
            ("symbol,shares\n,1\n", "line 2 has no symbol with a number of shares"),
            ("", "the file is empty"),
            ("symbol;shares\nA;1\n", "the columns must be symbol,shares, they are symbol;shares"),
            ("symbol,shares\nA,1\n A ,2\n", "the symbol A is there twice"),
            ("symbol,shares\nA,1,5\n", "line 2 has no symbol with a number of shares: A,1,5"),
            ("symbol,shares\nA\n", "line 2 has no symbol with a number of shares: A"),
            ("symbol,shares\nA,nan\n", "line 2 has no symbol"),
            ("symbol,shares\nA,inf\n", "line 2 has no symbol"),
            ("symbol,shares\nA,True\n", "line 2 has no symbol"),
            ("symbol,shares\nA,1_000\n", "line 2 has no symbol"),
            ('symbol,shares\nA,"1,000"\n', "line 2 has no symbol"),
        ],
    )
    def test_what_is_no_list_of_shares_is_refused(self, tmp_path, text, sentence):
        path = tmp_path / "held.csv"
        path.write_text(text, "utf-8")
        with pytest.raises(ValueError, match=sentence):
            read_held(path)

    def test_a_spreadsheet_may_write_a_mark_spaces_capitals_and_another_order(self, tmp_path):
        path = tmp_path / "held.csv"
        path.write_text("Shares, Symbol\n5, A\n\n-2 ,B\n", "utf-8-sig")

        assert read_held(path) == {"A": 5.0, "B": -2.0}

    def test_a_list_without_shares_is_all_cash(self, tmp_path):
        path = tmp_path / "held.csv"
        path.write_text("symbol,shares\n", "utf-8")

        assert read_held(path) == {}

    def test_a_file_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"nobody\.csv: what is held cannot be read: No such file"):
            read_held(tmp_path / "nobody.csv")

    def test_a_file_in_another_encoding_is_refused(self, tmp_path):
        path = tmp_path / "held.csv"
        path.write_bytes("symbol,shares\nA,1\n".encode("utf-16"))
        with pytest.raises(ValueError, match="the file is not encoded in UTF-8"):
            read_held(path)
