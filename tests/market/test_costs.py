"""Costs that count in currency or shares; oracles: worked examples as literals, and an account in plain Python."""

import json
from dataclasses import replace

import numpy as np
import pytest
from markets import market_of_prices, random_market

from market_regimes.config import MarketConfig, TradingCosts
from market_regimes.evaluate.play import backtest, trades
from market_regimes.evaluate.strategies import buy_and_hold
from market_regimes.market.costs import CostModel, Order
from market_regimes.market.data import read_bars
from market_regimes.market.environment import MarketCore, MarketVecEnv
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of
from market_regimes.prices import ReadOptions, read_frame
from market_regimes.run.trained import segments_as_trained, trained_on

FLAT = [100.0 + 0.01 * (i % 3) for i in range(20)] + [100.0]  # 20 returns before the first decision, at a close of 100
ACCOUNT = TradingCosts(fee_bp=0.0, start_equity=10_000.0)


def played(closes, targets, costs, volume=400.0, bars_per_year=49.0):
    """The frame of a backtest; a bar opens at the close before it. The EWMA volatility of the first decision is 21."""
    closes = FLAT + closes
    market = market_of_prices(closes, closes[:1] + closes[:-1], bars_per_year)
    market = replace(market, volume=np.full(len(closes), volume))
    segment = Segment.scaled_by(market, range(21, len(closes)), range(0, len(closes)))

    return backtest([segment], costs, lambda known: np.array([[*targets, 0.0][known.bar[0] - 20]]))["A"]


def test_buy_and_hold_with_a_least_fee_by_hand():
    """10,000 pays 5 and buys for 9,995, which grows by 21 % and pays 5 again when it is sold."""
    frame = played([110.0, 121.0, 121.0], [1.0, 1.0, 0.0], replace(ACCOUNT, min_fee=5.0))

    # 9,995 / 10,000; 12,093.95 before the sale and 12,088.95 after it.
    assert frame["equity"].tolist() == pytest.approx([0.9995 * 1.1, 0.9995 * 1.21, 1.208895], rel=1e-12)
    assert frame["trade"].tolist() == pytest.approx([0.9995, 0.0, -1.0], rel=1e-12)
    assert frame["cost"].tolist() == pytest.approx([0.0005, 0.0, 5 / 12_093.95], rel=1e-12)
    assert frame["gross_equity"].tolist() == pytest.approx([1.1, 1.21, 1.21], rel=1e-12)
    assert len(trades({"A": frame})) == 2


def test_the_least_fee_is_that_of_small_orders():
    """10 bp of 10,000 are 10, above the least fee of 5; of 2,500 they are 2.50, below it."""
    costs = replace(ACCOUNT, fee_bp=10.0)

    for target, paid in ((1.0, 10 / 1.001), (0.25, 5.0)):
        frame = played([100.0], [target], replace(costs, min_fee=5.0))
        assert frame["cost"].tolist() == pytest.approx([paid / 10_000], rel=1e-12)
        assert frame["position"].tolist() == pytest.approx([target], rel=1e-12)  # of what is left
        assert frame["trade"].tolist() == pytest.approx([target * (1 - paid / 10_000)], rel=1e-12)

    with_slippage = played([100.0], [0.25], replace(costs, min_fee=5.0, slippage_bp=100.0))
    # The order is x = 0.25 (1 - 0.011 x); slippage is paid beside the least fee.
    order = 0.25 / (1 + 0.25 * 0.011)

    assert with_slippage["cost"].tolist() == pytest.approx([0.0005 + 0.01 * order], rel=1e-12)


def test_a_fee_per_share_by_hand():
    """Shares at 100 for 100.50 each: 10,000 buys 10,000 / 100.50 of them, whatever the equity. Sold at 200: 199.50."""
    costs = replace(ACCOUNT, fee_per_share=0.5)
    frame = played([200.0, 200.0], [1.0, 0.0], costs)

    assert frame["equity"].tolist() == pytest.approx([2 / 1.005, 2 / 1.005 * 199.5 / 200], rel=1e-12)
    assert frame["trade"].tolist() == pytest.approx([1 / 1.005, -1.0], rel=1e-12)

    rich = played([200.0, 200.0], [1.0, 0.0], replace(costs, start_equity=1e6))

    assert rich["equity"].tolist() == pytest.approx(frame["equity"].tolist(), rel=1e-15)


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_impact_by_hand(fill):
    """400 shares at 100 are traded a bar: 10,000 is a quarter of it. Of 49 bars a year, 21 points are 3 % a bar."""
    costs = replace(ACCOUNT, impact_coefficient=2.0, fill=fill)

    assert played([100.0], [1.0], costs)["cost"].tolist() == pytest.approx([2 * 0.03 * 0.5], rel=1e-12)
    assert played([100.0], [0.25], costs)["cost"].tolist() == pytest.approx([2 * 0.03 * 0.25 * 0.25], rel=1e-12)
    assert played([100.0], [1.0], costs, volume=100.0)["cost"].tolist() == pytest.approx([2 * 0.03], rel=1e-12)


def account(opens, closes, volume, volatility, targets, costs, bars_per_year):
    """A row per bar from shares and cash in currency: return, trade, cost; row 0 of the arrays decides first."""
    shares, cash, rows = 0.0, costs.start_equity, []

    for bar, target in enumerate(targets):
        close, after = closes[bar], closes[bar + 1]
        price = opens[bar + 1] if costs.fill == "next_open" else close
        start = cash + shares * close
        equity = cash + shares * price
        rate = (costs.fee_bp + costs.slippage_bp) / 1e4 + costs.fee_per_share / price
        low, high = -equity, equity
        for _ in range(200):  # the order that the proportional costs alone would give
            order = (low + high) / 2
            low, high = (
                (order, high) if shares * price + order < target * (equity - rate * abs(order)) else (low, order)
            )
        size = abs(order)
        fee = size * costs.fee_bp / 1e4 + size / price * costs.fee_per_share
        paid = max(fee, costs.min_fee if size > 1e-9 * equity else 0.0) + size * costs.slippage_bp / 1e4
        daily = volatility[bar] / 100 / bars_per_year**0.5
        paid += costs.impact_coefficient * daily * (size / (volume[bar] * close)) ** 0.5 * size
        held = target * (equity - paid)
        traded = held - shares * price
        cash, shares = equity - paid - held, held / price
        rows.append(((cash + shares * after) / start - 1, traded / start, paid / start))

    return np.array(rows)


COSTS = {
    "least fee": replace(ACCOUNT, fee_bp=5.0, min_fee=3.0),
    "per share": replace(ACCOUNT, slippage_bp=2.0, fee_per_share=0.05),
    "impact": replace(ACCOUNT, fee_bp=1.0, impact_coefficient=0.8),
    "all": TradingCosts(
        fee_bp=3.0,
        slippage_bp=1.0,
        start_equity=5000.0,
        min_fee=2.0,
        fee_per_share=0.02,
        impact_coefficient=1.5,
    ),
}


def with_volume(seed=0):
    market = random_market(seed, 252)
    rng = np.random.default_rng(5)
    volatility = rng.uniform(10, 60, len(market.close))

    return replace(market, volume=rng.uniform(50, 5000, len(market.close)), volatility=volatility)


def some_targets(bars):
    """A third of the bars keep their target of 0 or 1, so that some give no order."""
    rng = np.random.default_rng(7)
    return np.where(np.arange(bars) // 5 % 2 == 0, rng.uniform(0, 1, bars), np.arange(bars) // 10 % 2)


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", COSTS)
def test_every_column_is_that_of_an_account(name, fill):
    costs, market, targets = (
        replace(COSTS[name], fill=fill),
        with_volume(),
        some_targets(70),
    )
    frame = backtest(
        [Segment.scaled_by(market, range(40, 110), range(0, 30))],
        costs,
        lambda k: targets[(k.bar - 39) % 70],
    )["AB"[0]]
    bars = slice(39, 110)
    arrays = (
        market.open[bars],
        market.close[bars],
        market.volume[bars],
        market.volatility[bars],
    )
    expected = account(*arrays, targets, costs, 252)

    assert frame[["return", "trade", "cost"]].to_numpy() == pytest.approx(expected, rel=1e-8, abs=1e-11)
    assert (frame["cost"] == 0).sum() > 10  # held, and nothing paid


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", COSTS)
def test_each_cost_only_hurts(name, fill):
    """Bar by bar, beside the same targets without it: the net return is less wherever it trades, the gross is equal."""
    costs, market, targets = (
        replace(COSTS[name], fill=fill),
        with_volume(),
        some_targets(70),
    )
    free = replace(costs, min_fee=0.0, fee_per_share=0.0, impact_coefficient=0.0)
    segment = Segment.scaled_by(market, range(40, 110), range(0, 30))
    dear, cheap = (backtest([segment], c, lambda k: targets[(k.bar - 39) % 70])["A"] for c in (costs, free))
    traded = cheap["trade"].abs() > 1e-9

    assert 30 < traded.sum() < 60

    if name == "least fee":  # an order of 6,000 and more pays 5 bp anyway
        assert (dear["return"] <= cheap["return"] + 1e-15).all()
        assert (dear["return"] < cheap["return"])[traded].sum() > 10
    else:
        assert (dear["return"] < cheap["return"])[traded].all()

    assert dear["return"][~traded].tolist() == pytest.approx(cheap["return"][~traded].tolist(), abs=1e-15)
    assert dear["gross_return"].tolist() == cheap["gross_return"].tolist()

    since = market.close[40:110] / (market.open[40:110] if fill == "next_open" else market.close[39:109]) - 1
    lost = dear["cost"].to_numpy() * (1 + dear["target"].to_numpy() * since)

    assert (dear["gross_return"] - dear["return"]).to_numpy() == pytest.approx(lost, abs=1e-12)


def test_costs_that_vanish_leave_what_there_is_without_them():
    market, targets = with_volume(), some_targets(70)
    segment = Segment.scaled_by(market, range(40, 110), range(0, 30))
    plain = replace(ACCOUNT, fee_bp=7.0, slippage_bp=3.0)
    frame = backtest([segment], plain, lambda k: targets[(k.bar - 39) % 70])["A"]

    for name in ("min_fee", "fee_per_share", "impact_coefficient"):
        tiny = backtest([segment], replace(plain, **{name: 1e-13}), lambda k: targets[(k.bar - 39) % 70])["A"]
        for column in ("return", "trade", "cost", "position"):
            assert tiny[column].tolist() == pytest.approx(frame[column].tolist(), abs=1e-14)

    assert MarketCore([segment], 1, plain).cost_model.in_currency is None


def test_several_symbols_have_an_account_each():
    """Equal to each by itself, though the second is shorter and stands still at its end, where it has no volume."""
    one, two = with_volume(0), with_volume(1)
    two.volume[70:] = np.nan
    segments = [
        Segment.scaled_by(one, range(40, 110), range(0, 30)),
        Segment.scaled_by(two, range(30, 70), range(0, 30)),
    ]
    costs = COSTS["all"]
    rule = lambda known: np.where(known.bar % 3 == 0, 0.25, 1.0)  # noqa: E731
    both = backtest(segments, costs, rule)

    for segment in segments:
        (alone,) = backtest([segment], costs, rule).values()
        assert both[segment.market.symbol].equals(alone)
        assert np.isfinite(alone.drop(columns="regime").to_numpy()).all()


def test_a_fee_that_takes_what_is_left_is_ruin():
    """Of 10 the first order takes 6 and the second all."""
    costs = TradingCosts(fee_bp=0.0, start_equity=10.0, min_fee=6.0)
    frame = played([100.0, 100.0, 100.0], [1.0, 0.5, 1.0], costs)

    assert frame["equity"].tolist() == pytest.approx([0.4, 0.01, 0.01])
    assert frame["trade"].tolist() == pytest.approx([0.4, -1.0, 0.0])


def test_episodes_begin_with_the_starting_equity():
    closes = FLAT + [100.0] * 20
    market = market_of_prices(closes, closes)
    env = MarketVecEnv(
        MarketCore(
            [Segment.scaled_by(market, range(21, 41), range(0, 41))],
            2,
            replace(ACCOUNT, min_fee=100.0),
            2,
        ),
        seed=0,
    )
    env.reset()
    rewards = [env.step(np.full((2, 1), target))[1] for target in (1.0, 0.0, 1.0, 0.0)]
    # 100 of 10,000, then 100 of 9,900, then as before.
    expected = [100 * np.log(0.99), 100 * np.log(9800 / 9900)] * 2

    assert np.stack(rewards) == pytest.approx(np.repeat(np.array(expected)[:, None], 2, axis=1), rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            dict(min_fee=5.0),
            "min_fee=5 counts in currency or shares, .* state market.trading.start_equity",
        ),
        (dict(fee_per_share=0.01), "fee_per_share=0.01 counts in currency or shares"),
        (dict(impact_coefficient=1.0), "impact_coefficient=1 counts in currency or shares"),
        (
            dict(min_fee=-1.0, start_equity=9.0),
            "min_fee must be a finite number of at least 0",
        ),
        (
            dict(impact_coefficient=float("nan"), start_equity=9.0),
            "impact_coefficient must be a finite",
        ),
        (
            dict(fee_per_share=float("inf"), start_equity=9.0),
            "fee_per_share must be a finite",
        ),
        (dict(start_equity=0.0), "start_equity must be finite and above min_fee=0"),
        (
            dict(start_equity=5.0, min_fee=5.0),
            "start_equity must be finite and above min_fee=5",
        ),
        (dict(start_equity=float("inf")), "start_equity must be finite"),
    ],
)
def test_configurations_that_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        TradingCosts(**keys)


def test_shares_that_cost_less_than_their_fee_are_refused():
    """Where an order may be filled: a fee of 60 on shares at 100 takes all of a position of 2."""
    closes = [*FLAT, 100.0, 50.0, 100.0]
    market = market_of_prices(closes, closes[:1] + closes[:-1])
    costs = TradingCosts(0.0, 2.0, start_equity=1e4, fee_per_share=49.0)
    segment = Segment.scaled_by(market, range(21, 24), range(0, 24))

    with pytest.raises(
        ValueError,
        match="fee_per_share=49 takes all equity of a trade in A at the price 50, of an order ",
    ):
        MarketCore([segment], 1, costs)

    MarketCore([replace(segment, period=range(21, 23))], 1, costs)


IMPACT = TradingCosts(start_equity=1e5, impact_coefficient=1.0)
PERIODS = dict(
    train=("2000-01-03", "2001-03-30"),
    validation=("2001-04-02", "2001-08-31"),
    test=("2001-09-03", "2002-03-29"),
)


@pytest.fixture
def config_of(tmp_path):
    """A function that writes a table and gives the configuration that reads it."""

    def config_of(table, **keys):
        table.to_csv(tmp_path / "own.csv", index=False)
        return MarketConfig(str(tmp_path / "own.csv"), **PERIODS, trading=IMPACT, **keys)

    return config_of


@pytest.mark.parametrize("volume", [0.0, np.nan, -1.0])
def test_impact_needs_a_volume_at_every_order_and_at_no_other_bar(config_of, make_prices, volume):
    table = make_prices(600)
    last = int(table.index[table["date"] == PERIODS["test"][1]][0])

    for bar in (20, last - 1):
        changed = table.assign(volume=table["volume"].where(table.index != bar, volume))
        with pytest.raises(
            ValueError,
            match=rf"row {bar + 1} after the header \(date .*volume of own is missing or not",
        ):
            segments_of(config_of(changed))

    outside = table.assign(volume=table["volume"].where((table.index >= 20) & (table.index < last), volume))
    config = config_of(outside)

    for segments in segments_of(config).values():
        frame = backtest(segments, IMPACT, buy_and_hold)["own"]
        assert np.isfinite(frame["return"]).all()

    assert read_bars(config)[0].notes.unused_columns == ()

    with pytest.raises(
        ValueError,
        match=r"own.csv has no column volume, which market.trading.impact_coefficient names",
    ):
        segments_of(config_of(table.drop(columns="volume")))

    with pytest.raises(
        ValueError,
        match=r"synthetic-01 has no column volume, which market.trading.impact_coefficient",
    ):
        segments_of(replace(config, data="synthetic"))


def test_a_market_without_volume_has_no_impact():
    market = with_volume()

    for volume, message in (
        (None, "nowhere has no volume"),
        (market.volume * 0, "has bars of A without a volume"),
    ):
        with pytest.raises(ValueError, match=message):
            MarketCore(
                [Segment.scaled_by(replace(market, volume=volume), range(40, 110), range(0, 30))],
                1,
                IMPACT,
            )


def test_a_signal_needs_no_volume_and_an_evaluation_does(config_of, make_prices):
    table = make_prices(600)
    config = config_of(table)
    known = trained_on(segments_of(config))
    read = read_frame(table.assign(volume=0), "own", ReadOptions(own=config.own_columns))
    (segment,) = segments_as_trained(read, known, config, last_bar=True)

    assert MarketCore([segment], 1, IMPACT.without_currency, episode_bars=None).cost_model.in_currency is None

    with pytest.raises(
        ValueError,
        match=r"volume of own is missing or not positive, and market.trading.impact_coeffici",
    ):
        segments_as_trained(read, known, config)


def test_the_fingerprint_covers_the_volume_where_costs_depend_on_it(config_of, make_prices):
    table = make_prices(600)
    prints = {}

    for name, one in (("one", table), ("two", table.assign(volume=7))):
        config = config_of(one)
        for costs in (IMPACT, TradingCosts()):
            market = segments_of(replace(config, trading=costs))["train"][0].market
            prints[name, costs.in_currency] = json.dumps(market.fingerprint())

    assert prints["one", False] == prints["two", False]
    assert len(set(prints.values())) == 3


def test_an_order_knows_the_volume_of_the_bar_before_it_and_of_no_later_one(config_of, make_prices):
    """The volumes change from bar 450 on: the first order at another cost is given there, and filled a bar later."""
    table = make_prices(600)
    frames = []

    for one in (table, table.assign(volume=table["volume"].where(table.index < 450, 50))):
        (segment,) = segments_of(config_of(one))["test"]
        frames.append(backtest([segment], IMPACT, lambda known: known.bar % 2 * 1.0)["own"])

    changed = frames[0]["cost"] != frames[1]["cost"]

    assert changed.idxmax() == table["date"][451]
    assert changed[changed.idxmax() :].all()


def filled(target, drifted, rate):
    """One order by the formula that stood in the environment, in plain Python: what is traded, and its cost."""
    trade = target - drifted
    sign = int(trade > 0) - int(trade < 0)
    trade = trade / (1 + sign * target * rate)

    return trade, rate * abs(trade)


def filled_in_currency(target, drifted, equity, rate, costs, per_share, impact):
    """The same with a fee per share, a least fee and an impact."""
    trade, cost = filled(target, drifted, rate + per_share)
    size = abs(trade)
    currency = costs.start_equity * equity
    fee = (costs.fee_bp / 1e4 + per_share) * size
    least = costs.min_fee / currency if size > 1e-9 else 0.0
    cost = min(cost + max(least - fee, 0.0) + impact * float(np.sqrt(size * currency)) * size, 1.0)

    return target * (1 - cost) - drifted, cost


@pytest.mark.parametrize("costs", [TradingCosts(fee_bp=3.0, slippage_bp=4.5), *COSTS.values()])
def test_an_order_is_filled_as_by_the_formulas_typed_out(costs):
    """To the last bit, for 500 random orders."""
    rng = np.random.default_rng(0)
    market = replace(random_market(0, 252), volume=rng.uniform(1e3, 1e5, 110))
    model = CostModel.of([Segment.scaled_by(market, range(40, 110), range(0, 30))], costs)
    target = rng.uniform(-2, 2, 500)
    drifted = rng.uniform(-2, 2, 500)
    bar = rng.integers(39, 109, 500)
    equity = rng.uniform(0.2, 3, 500)

    order = model.trade(target, drifted, bar, equity)

    rate = (costs.fee_bp + costs.slippage_bp) / 1e4

    for i in range(500):
        expected = filled(target[i], drifted[i], rate)
        if costs.in_currency:
            now = bar[i]
            per_share = costs.fee_per_share / market.open[now + 1]
            daily = market.volatility[now] / 100 / np.sqrt(252.0)
            impact = costs.impact_coefficient * daily / np.sqrt(market.volume[now] * market.close[now])
            expected = filled_in_currency(target[i], drifted[i], equity[i], rate, costs, per_share, impact)
        assert (order.trade[i], order.cost[i]) == expected


def test_financing_and_interest_by_hand():
    """Of 252 bars a year, 25.2 % are 0.1 % a bar on what is borrowed, 50.4 % are 0.2 % on cash."""
    model = CostModel(TradingCosts(financing_rate=0.252, cash_rate=0.504), 252)
    position = np.array([-1.5, 0.0, 0.25, 1.0, 3.0])

    assert model.financing(position) == pytest.approx([0.0015, 0.0, 0.0, 0.0, 0.002])
    assert model.interest(position) == pytest.approx([0.002, 0.002, 0.0015, 0.0, 0.0])


def test_a_bar_is_expected_to_cost_its_share_of_a_stretch():
    """20 bp twice, in a stretch of 4 bars: 0.1 % a bar. Beside it 1 borrowed, or no cash, at 25.2 % a year: 0.1 %."""
    trading = TradingCosts(fee_bp=12.0, slippage_bp=8.0, financing_rate=0.252, cash_rate=0.252)
    model = CostModel(trading, 252)

    assert model.expected(1.0, np.array([0.25])) == pytest.approx([0.1 + 0.1])
    assert model.expected(2.0, np.array([0.25])) == pytest.approx([0.2 + 0.2])
    assert model.expected(0.0, np.array([0.25])) == pytest.approx([0.0])


class Halved(CostModel):
    """A user's slippage: half of every order is lost."""

    def trade(self, target, drifted, bar, equity):
        trade = target - drifted
        return Order(trade, np.abs(trade) / 2)


def test_a_cost_model_of_ones_own_is_asked():
    """From flat to 1 at a price that stays: half of the equity is left."""
    market = market_of_prices([*FLAT, 100.0], [*FLAT, 100.0])
    segment = Segment.scaled_by(market, range(21, 22), range(0, 22))
    core = MarketCore([segment], cost_model=Halved(TradingCosts(), 252.0))

    assert core.step(np.ones(1)).growth == pytest.approx([0.5])
