"""
What an agent may know, and where every period begins and ends.

The standing look-ahead test moves all bars from a date on: nothing before it may move, and what includes the first bar
moved must. Edges of periods are read off the returns earned, in a market whose every return names its bar.
"""

import json
from dataclasses import replace
from itertools import product

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest

from market_regimes.compare.folds import folds_of
from market_regimes.config import CompareConfig, MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.figures import figures, figures_by_regime
from market_regimes.evaluate.play import backtest, random_timing
from market_regimes.evaluate.strategies import buy_and_hold, volatility_targeting
from market_regimes.market.environment import MarketCore, MarketEnv, MarketVecEnv
from market_regimes.market.market import Market, market_of
from market_regimes.market.periods import period_of
from market_regimes.market.segment import Segment
from market_regimes.market.segments import segments_of
from market_regimes.prices import Bars
from market_regimes.run.study import Study

FREE = TradingCosts(fee_bp=0.0, financing_rate=0.0)


def naming_market(bars=100, symbol="A", sign=1):
    """Held from close to close, bar t earns a log return of ``sign * t`` times 1e-4: opens equal the close before."""
    close = 100 * np.exp(sign * 1e-4 * np.cumsum(np.arange(bars)))
    opens = np.concatenate([close[:1], close[:-1]])
    dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(bars)
    return Market(symbol, "nowhere", dates, opens, close, np.arange(1.0, bars + 1), np.full(bars, 20.0))


def bars_of(log_returns):
    """Signed numbers of the bars that earned them."""
    return np.rint(np.asarray(log_returns) / 1e-4).astype(int)


def episodes_of(segments, episode_bars, fill, envs=8, steps=400):
    """Bars earned by every episode that ended, by a fully invested agent of the vectorised environment."""
    env = MarketVecEnv(MarketCore(segments, envs, replace(FREE, fill=fill), episode_bars), seed=0)
    env.reset()
    running, ended = [[] for _ in range(envs)], []
    for _ in range(steps):
        _, rewards, dones, _ = env.step(np.ones((envs, 1)))
        for i, bar in enumerate(bars_of(rewards / 100)):
            running[i].append(bar)
            if dones[i]:
                ended.append(running[i])
                running[i] = []
    return ended


# Period, and by hand the first and the last bar that may be earned: 20 returns precede the first decision.
EDGES = {
    "in the middle": (range(40, 60), 40, 59),
    "to the last bar": (range(80, 100), 80, 99),
    "from the first bar": (range(0, 50), 21, 49),
    "from the last bar without history": (range(20, 50), 21, 49),
    "from the first bar with history": (range(21, 50), 21, 49),
    "from the second bar with history": (range(22, 50), 22, 49),
}


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", EDGES)
def test_short_episodes_cover_the_period_and_no_other_bar(name, fill):
    period, first, last = EDGES[name]
    ended = episodes_of([Segment.scaled_by(naming_market(), period, range(0, 40))], 7, fill)
    assert {len(episode) for episode in ended} == {7}
    assert all(episode == list(range(episode[0], episode[0] + 7)) for episode in ended)
    assert {episode[0] for episode in ended} == set(range(first, last - 7 + 2))


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("episode_bars", [None, 252])
def test_long_episodes_are_the_whole_period(name, fill, episode_bars):
    period, first, last = EDGES[name]
    ended = episodes_of([Segment.scaled_by(naming_market(), period, range(0, 40))], episode_bars, fill, steps=90)
    assert {tuple(episode) for episode in ended} == {tuple(range(first, last + 1))}


@pytest.mark.parametrize("fill", ["next_open", "close"])
def test_episodes_of_two_symbols_stay_in_the_period_of_their_own(fill):
    """The second symbol falls, has other bars, and one episode fewer fits into it."""
    segments = [
        Segment.scaled_by(naming_market(), range(40, 60), range(0, 40)),
        Segment.scaled_by(naming_market(70, "B", -1), range(50, 69), range(0, 40)),
    ]
    starts = {(episode[0], episode[-1]) for episode in episodes_of(segments, 7, fill)}
    assert starts == {(a, a + 6) for a in range(40, 54)} | {(-a, -a - 6) for a in range(50, 63)}


def test_whole_episodes_of_two_symbols_end_each_at_the_end_of_its_period():
    """Twenty bars of the one and eleven of the other: an agent that begins anew does not disturb the others."""
    segments = [
        Segment.scaled_by(naming_market(), range(40, 60), range(0, 40)),
        Segment.scaled_by(naming_market(70, "B", -1), range(50, 61), range(0, 40)),
    ]
    ended = {tuple(episode) for episode in episodes_of(segments, None, "next_open", steps=120)}
    assert ended == {tuple(range(40, 60)), tuple(-bar for bar in range(50, 61))}


def test_gymnasiums_episodes_cover_the_period_and_no_other_bar():
    env = MarketEnv(MarketCore([Segment.scaled_by(naming_market(), range(40, 60), range(0, 40))], 1, FREE, 7))
    ended = []
    env.reset(seed=0)
    for _ in range(150):
        earned, truncated = [], False
        while not truncated:
            _, reward, terminated, truncated, _ = env.step(np.ones(1))
            earned.append(bars_of(reward / 100).item())
            assert not terminated
        ended.append(earned)
        env.reset()
    assert {len(earned) for earned in ended} == {7}
    assert {earned[0] for earned in ended} == set(range(40, 54))


@pytest.mark.parametrize("fill", ["next_open", "close"])
@pytest.mark.parametrize("name", EDGES)
def test_a_backtest_earns_every_bar_of_its_period_and_no_other(name, fill):
    period, first, last = EDGES[name]
    market = naming_market()
    costs = replace(FREE, fill=fill)
    frames = backtest([Segment.scaled_by(market, period, range(0, 40))], costs, buy_and_hold)
    frame = frames["A"]
    expected = list(range(first, last + 1))
    assert bars_of(np.log1p(frame["return"])).tolist() == expected
    assert bars_of(np.log1p(frame["gross_return"])).tolist() == expected
    assert frame.index.tolist() == [pd.Timestamp("2001-01-01") + pd.Timedelta(days=t) for t in expected]
    prices = market.open[expected] if fill == "next_open" else market.close[[t - 1 for t in expected]]
    assert frame["price"].tolist() == prices.tolist()
    shifted, _ = random_timing([Segment.scaled_by(market, period, range(0, 40))], costs, frames, seed=0, runs=3)
    assert bars_of(np.log1p(shifted["A"]["return"])).tolist() == expected


def test_a_bar_carries_the_index_and_the_regime_of_its_own_close():
    """The index rises bar by bar: 15 at bar 45, 25 at bar 55, 40 at bar 70."""
    market = replace(naming_market(), index=np.arange(100) - 30.0)
    frame = backtest([Segment.scaled_by(market, range(40, 80), range(0, 40))], FREE, buy_and_hold)["A"]
    assert frame["index"].tolist() == [bar - 30 for bar in range(40, 80)]
    assert frame["regime"].tolist() == ["calm"] * 5 + ["normal"] * 10 + ["volatile"] * 15 + ["crash"] * 10


def test_a_period_of_one_bar_can_be_traded_and_one_without_history_cannot():
    frame = backtest([Segment.scaled_by(naming_market(), range(21, 22), range(0, 40))], FREE, buy_and_hold)["A"]
    assert bars_of(np.log1p(frame["return"])).tolist() == [21]
    for period in (range(0, 21), range(40, 40)):
        with pytest.raises(ValueError, match="too few"):
            Segment.scaled_by(naming_market(), period, range(0, 40))


DAY = 86400


@pytest.mark.parametrize(
    ("seconds", "first", "last", "expected"),
    [
        # Daily bars at midnight.
        (np.arange(100) * DAY, "2001-01-03", "2001-01-05", range(2, 5)),
        (np.arange(100) * DAY, "2001-01-01", "2001-01-02", range(0, 2)),
        (np.arange(100) * DAY, "2001-04-09", "2001-04-10", range(98, 100)),
        # Four bars a day at 0, 6, 12 and 18 hours: the last day to its end, its midnight not missed.
        (np.arange(100) * DAY // 4, "2001-01-03", "2001-01-05", range(8, 20)),
        # One bar a second before midnight and one at it.
        (
            np.sort(np.append(np.arange(50) * DAY, np.arange(50) * DAY + DAY - 1)),
            "2001-01-03",
            "2001-01-05",
            range(4, 10),
        ),
        # Every seventh day: a bound between two bars takes neither too many nor too few.
        (np.arange(100) * 7 * DAY, "2001-01-08", "2001-01-22", range(1, 4)),
        (np.arange(100) * 7 * DAY, "2001-01-09", "2001-01-28", range(2, 4)),
    ],
)
def test_a_period_holds_the_bars_of_both_its_days(seconds, first, last, expected):
    market = replace(naming_market(), dates=np.datetime64("2001-01-01", "s") + seconds)
    assert period_of(market, first, last) == expected


def test_observations_are_scaled_by_the_training_bars_alone():
    """By plain loops; the first 20 bars, without 20 returns, do not count."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 100)))
    volatility, index = rng.uniform(10, 60, 100), rng.uniform(10, 60, 100)
    market = replace(naming_market(), close=close, volatility=volatility, index=index)
    for training, used in (
        (range(0, 50), range(20, 50)),
        (range(30, 50), range(30, 50)),
        (range(60, 99), range(60, 99)),
    ):
        seen = []
        segment = Segment.scaled_by(market, range(70, 80), training)
        backtest([segment], FREE, lambda known, seen=seen: seen.append(known.observations[0]) or 1.0)
        assert len(seen) == 11
        returns = {t: np.log(close[t] / close[t - 1]) for t in range(1, 100)}
        mean = sum(returns[t] for t in used) / len(used)
        std = np.sqrt(sum((returns[t] - mean) ** 2 for t in used) / len(used))
        v_mean = sum(volatility[t] for t in used) / len(used)
        v_std = np.sqrt(sum((volatility[t] - v_mean) ** 2 for t in used) / len(used))
        for k, observation in enumerate(seen):
            bar = 69 + k  # the first decision falls on the close before the period
            window = [(returns[t] - mean) / std for t in range(bar - 19, bar + 1)]
            expected = [*window, (volatility[bar] - v_mean) / v_std, index[bar] / 20]
            assert observation[:22] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_volatility_targeting_knows_the_training_bars_and_the_close_before():
    volatility = np.random.default_rng(0).uniform(10, 60, 100)
    market = replace(naming_market(), volatility=volatility)
    segment = Segment.scaled_by(market, range(70, 80), range(30, 51))
    frame = backtest([segment], TradingCosts(0.0, 5.0), volatility_targeting([segment]))["A"]
    wanted = sorted(volatility[30:51])[10]  # the median of 21
    assert frame["target"].tolist() == pytest.approx([wanted / volatility[t - 1] for t in range(70, 80)])


def test_bounds_are_quantiles_of_the_periods_bars():
    """Of the index 0, 10, ..., 1000 over bars 30 to 130: the share q is at 1000 q. Bars outside are at 10,000."""
    index = np.full(200, 1e4)
    index[30:131] = np.random.default_rng(0).permutation(np.arange(0, 1001, 10.0))
    market = replace(naming_market(200), index=index)
    for period, is_exact in ((range(30, 131), True), (range(30, 132), False), (range(29, 131), False)):
        bounds = market.regimes.fitted(market.index, period).bounds
        assert (bounds == pytest.approx([383, 898, 986])) is is_exact


def test_an_own_index_is_needed_from_the_first_to_the_last_bar_and_no_further():
    index = np.full(100, 20.0)
    for bar, needed in ((29, False), (30, True), (60, True), (61, False)):
        m = naming_market()
        holed = Bars("A", "nowhere", m.dates, m.open, m.close, np.where(np.arange(100) == bar, np.nan, index))
        if needed:
            with pytest.raises(ValueError, match="no volatility_index for 1 of the bars"):
                market_of(holed, MarketConfig(), range(30, 50), 60)
        else:
            market = market_of(holed, MarketConfig(), range(30, 50), 60)
            assert market.index[bar] == pytest.approx(6.517 + 0.7027 * market.volatility[bar])


# A frequency: the times of the bars, and the periods.
DATES = {
    "daily": pd.bdate_range("2000-01-03", periods=400),
    "hourly": pd.DatetimeIndex(
        [day + pd.Timedelta(hours=10 + hour) for day in pd.bdate_range("2000-01-03", periods=70) for hour in range(6)]
    ),
}
PERIODS = {
    "daily": dict(
        train=("2000-01-03", "2000-09-29"), validation=("2000-10-02", "2001-01-31"), test=("2001-02-01", "2001-06-29")
    ),
    "hourly": dict(
        train=("2000-01-03", "2000-02-15"), validation=("2000-02-16", "2000-03-06"), test=("2000-03-07", "2000-03-31")
    ),
}
# Where every bar from here on moves: the first bar of validation and test, one within training and one within the test.
CUTS = {
    "daily": {"training": "2000-08-01", "validation": "2000-10-02", "test": "2001-02-01", "within": "2001-04-12"},
    "hourly": {
        "training": "2000-02-07 12:00",
        "validation": "2000-02-16",
        "test": "2000-03-07",
        "within": "2000-03-22 13:00",
    },
}
LAST_BARS = {
    "daily": {"train": "2000-09-29", "validation": "2001-01-31", "test": "2001-06-29"},
    "hourly": {"train": "2000-02-15 15:00", "validation": "2000-03-06 15:00", "test": "2000-03-31 15:00"},
}
KINDS = list(product(DATES, (1, 2), ("next_open", "close")))


@pytest.fixture(scope="module")
def tables(make_prices):
    """Prices by frequency and symbol, with an index of their own for the second one, which begins later."""
    made = {}
    for frequency, dates in DATES.items():
        one = make_prices(len(dates), seed=16).assign(date=dates)
        two = make_prices(len(dates), seed=4).assign(date=dates)
        two["vix"] = np.random.default_rng(5).uniform(8, 50, len(dates))
        made[frequency] = {"one": one, "two": two.iloc[6:] if frequency == "daily" else two.iloc[18:]}
    return made


def moved(table, since, until=None, columns=("open", "close", "vix")):
    """The table with other values in the columns from one time to another, and high and low around them."""
    table = table.copy()
    rng = np.random.default_rng(6)
    rows = (table["date"] >= since) & (table["date"] <= (until or table["date"].iloc[-1]))
    for name in ("open", "close", "vix"):
        factor = np.exp(rng.normal(0.02, 0.05, len(table)))
        if name in table and name in columns:
            table.loc[rows, name] *= factor[rows]
    table["high"] = table[["open", "close"]].max(axis=1) * 1.002
    table["low"] = table[["open", "close"]].min(axis=1) * 0.998
    return table


@pytest.fixture
def config_of(tmp_path, tables):
    """A function that writes the tables, changed by another function, and gives the configuration that reads them."""
    count = iter(range(100))

    def config_of(kind, change=lambda table: table):
        frequency, symbols, fill = kind
        folder = tmp_path / str(next(count))
        folder.mkdir()
        for name, table in list(tables[frequency].items())[:symbols]:
            change(table).to_csv(folder / f"{name}.csv", index=False)
        trading = TradingCosts(-1.0, 2.0, fee_bp=3.0, fill=fill, cash_rate=0.02)
        return MarketConfig(data=str(folder), episode_bars=20, trading=trading, **PERIODS[frequency])

    return config_of


def rule(seen):
    """A rule that notes what it sees, and holds what a fixed function of it says."""
    weights = np.random.default_rng(8).normal(0, 0.3, 22)

    def decide(known):
        observations = known.observations
        seen.append(observations)
        return np.tanh(observations[:, :22].astype(np.float64) @ weights)

    return decide


def known(config, before):
    """Everything that a run knows of the bars before a time, and of the periods that end before it."""
    before = np.datetime64(before, "s")
    segments, facts = segments_of(config), {}
    for name, period in segments.items():
        markets = [segment.market for segment in period]
        for market in markets:
            past = market.dates < before
            facts[f"{market.symbol}: prices"] = np.stack([market.open, market.close])[:, past]
            facts[f"{market.symbol}: volatility"] = market.volatility[past]
            facts[f"{market.symbol}: index"] = market.index[past]
        ended = all(s.market.dates[s.period[-1]] < before for s in period)
        if name == "train" and ended:
            facts["bounds"] = np.array([market.regimes.bounds for market in markets])
            facts |= episodes(period, config)
        if all(s.market.dates[s.training[-1]] < before for s in period):
            for market in markets:
                facts[f"{market.symbol}: labels"] = market.regime[market.dates < before]
            seen = []
            strategies = {
                "agent": backtest(period, config.trading, rule(seen)),
                "volatility target": backtest(period, config.trading, volatility_targeting(period)),
            }
            for i, segment in enumerate(period):
                times = segment.market.dates[segment.first : segment.last + 1]
                states = np.stack(seen)[: len(times), i]
                facts[f"{name}, {i}: observations"] = states[times < before]
            for (strategy, frames), symbol in product(strategies.items(), [m.symbol for m in markets]):
                frame = frames[symbol]
                facts[f"{name}, {strategy}, {symbol}"] = frame[frame.index < before].drop(columns="regime").to_numpy()
            if ended:
                strategies["random timing"], ratios = random_timing(period, config.trading, strategies["agent"], 0, 9)
                facts[f"{name}: ratios"] = ratios
                per_year, agent = markets[0].bars_per_year, strategies["agent"]
                result = figures(joint(agent), per_year), figures_by_regime(Account(agent), per_year)
                facts[f"{name}: figures"] = np.frombuffer(json.dumps(result).encode(), np.uint8)
    return facts


def episodes(segments, config):
    """Observations, rewards and ends of four training environments."""
    env = MarketVecEnv(MarketCore(segments, 4, config.trading, config.episode_bars), seed=2)
    observations, rewards, dones = [env.reset()], [], []
    for actions in np.random.default_rng(9).uniform(-1, 2, (70, 4, 1)):
        observation, reward, done, _ = env.step(actions)
        observations.append(observation)
        rewards.append(reward)
        dones.append(done)
    names = ("episodes: observations", "episodes: rewards", "episodes: ends")
    return dict(zip(names, map(np.stack, (observations, rewards, dones)), strict=True))


def differing(one, two):
    """Names of the facts that differ."""
    assert one.keys() == two.keys()
    return {name for name in one if not np.array_equal(one[name], two[name], equal_nan=one[name].dtype.kind == "f")}


@pytest.mark.parametrize("cut", ["training", "validation", "test", "within"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_future_moves_nothing_before_it(config_of, kind, cut):
    since = CUTS[kind[0]][cut]
    one, two = known(config_of(kind), since), known(config_of(kind, lambda t: moved(t, since)), since)
    assert differing(one, two) == set()
    assert len(one) >= {"training": 3, "validation": 12, "test": 17, "within": 20}[cut]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_last_bar_of_a_period_moves_what_includes_it_and_nothing_else(config_of, kind):
    """So the test above can fail: what it compares is moved by the last bar that counts, and that bar alone."""
    plain = known(config_of(kind), "2100-01-01")

    def moves(period):
        last = LAST_BARS[kind[0]][period]
        facts = known(config_of(kind, lambda t: moved(t, last, last)), "2100-01-01")
        return differing(plain, facts), facts

    names, _ = moves("train")
    for i, symbol in enumerate(["one", "two"][: kind[1]]):
        assert {f"{symbol}: prices", f"{symbol}: volatility", f"{symbol}: index"} <= names
        assert {f"{name}, {i}: observations" for name in PERIODS["daily"]} <= names
    assert {"bounds", "episodes: observations", "train: figures", "train: ratios", "validation: figures"} <= names

    of_training = {name for name in plain if name.startswith(("bounds", "episodes", "train"))}
    names, facts = moves("validation")
    assert {"validation: figures", "validation: ratios", "validation, agent, one"} <= names
    assert not names & of_training
    rows = (plain["validation, agent, one"] != facts["validation, agent, one"]).any(axis=1)
    assert rows.tolist() == [False] * (len(rows) - 1) + [True]

    names, _ = moves("test")
    assert {"test: figures", "test: ratios", "test, agent, one"} <= names
    assert not names & of_training
    assert not any(name.startswith("validation") for name in names)


@pytest.mark.parametrize("symbols", [1, 2])
@pytest.mark.parametrize("frequency", DATES)
def test_an_order_for_the_next_open_knows_no_price_of_its_day_but_that(config_of, frequency, symbols):
    kind, cut = (frequency, symbols, "next_open"), CUTS[frequency]["within"]

    def change(table):
        later = moved(table, cut)
        later.loc[later["date"] == cut, "open"] = table["open"]
        return later.assign(high=later[["open", "close"]].max(axis=1), low=later[["open", "close"]].min(axis=1))

    frames = []
    for config in (config_of(kind), config_of(kind, change)):
        frames.append(backtest(segments_of(config)["test"], config.trading, rule([])))
    for symbol in frames[0]:
        one, two = (frame[symbol].loc[cut] for frame in frames)
        order = ["target", "trade", "price", "cost"]
        assert one[order].tolist() == pytest.approx(two[order].tolist(), rel=1e-12)
        assert one["return"] != two["return"]


def test_folds_of_two_symbols_begin_with_the_first_ones_data_and_end_with_the_last_ones(tmp_path, make_prices):
    """One from 2000-01-03 to 2005-10-04, the other from 2000-03-06 to 2005-03-14: each takes part while it exists."""
    make_prices(1502).to_csv(tmp_path / "a.csv", index=False)
    make_prices(1311, seed=1, start="2000-03-06").to_csv(tmp_path / "b.csv", index=False)
    for order in ("ab", "ba"):
        data = [str(tmp_path / f"{name}.csv") for name in order]
        compare = CompareConfig(first_test="2002-01-01", test_years=2, embargo_days=10)
        folds = folds_of(compare, MarketConfig(data=data))
        assert [(fold.market.train, fold.market.test) for fold in folds] == [
            (("2000-01-03", "2001-12-21"), ("2002-01-01", "2003-12-31")),  # the 10 days from the 22nd to the 31st
            (("2000-01-03", "2003-12-21"), ("2004-01-01", "2005-10-04")),
        ]
        assert [fold.missing for fold in folds] == [None, None]
        for fold in folds:
            segments = segments_of(fold.market, ("train", "test"))
            for period, days in (("train", fold.market.train), ("test", fold.market.test)):
                for segment in segments[period]:
                    held = pd.DatetimeIndex(segment.market.dates[segment.period.start : segment.period.stop])
                    own = segment.market.dates[[0, -1]].astype("M8[D]").astype(str)
                    assert list(held) == list(pd.bdate_range(max(days[0], own[0]), min(days[1], own[1])))
        fixed = folds_of(replace(compare, train_years=1), MarketConfig(data=data))
        assert [fold.market.train[0] for fold in fixed] == ["2001-01-01", "2003-01-01"]
        long = folds_of(replace(compare, train_years=3), MarketConfig(data=data))
        assert [fold.market.train[0] for fold in long] == ["2000-01-03", "2001-01-01"]  # there is nothing before it
        (last,) = folds_of(CompareConfig(first_test="2005-10-04"), MarketConfig(data=data))
        assert last.market.test == ("2005-10-04", "2005-10-04")
        assert last.missing == "its test period has 1 bars, 60 are needed"
        middle, *_ = folds_of(CompareConfig(test_years=5), MarketConfig(data=data))
        assert middle.market.test[0] == "2002-11-18"  # 2101 days: 2000-01-03 and 1050


@pytest.mark.parametrize(
    ("year", "bars", "name"), [("2002", 59, "test"), ("2002", 60, None), ("2001", 250, "training")]
)
def test_a_fold_needs_enough_bars(tmp_path, make_prices, year, bars, name):
    """Only the first bars of a year are left; where that is 2001, one bar of 2000 comes before them."""
    table = make_prices(1000)
    days = table["date"].dt.year
    kept = (days != int(year)) | (days[days == int(year)].groupby(days).cumcount() < bars)
    if year == "2001":
        kept &= (days != 2000) | (table.index == 0)
        bars += 1
    table[kept].to_csv(tmp_path / "b.csv", index=False)
    compare = CompareConfig(first_test="2002-01-01", test_years=1, embargo_days=0)
    needed = {"test": 60, "training": 252, None: None}[name]
    expected = None if name is None else f"its {name} period has {bars} bars, {needed} are needed"
    assert folds_of(compare, MarketConfig(data=str(tmp_path / "b.csv")))[0].missing == expected
    # Beside another symbol, which has enough, it takes part while it exists.
    table.to_csv(tmp_path / "a.csv", index=False)
    for order in ("ab", "ba"):
        data = [str(tmp_path / f"{symbol}.csv") for symbol in order]
        fold = folds_of(compare, MarketConfig(data=data, bars_per_year=261))[0]
        assert fold.missing is None
        assert {segment.market.symbol for segment in fold.segments["test"]} == {"a", "b"}


def test_a_folds_later_bars_move_nothing_of_it(tmp_path, make_prices):
    """Prices after the first fold's test period: its periods and all it knows stay."""
    table = make_prices(1100)
    for name, prices in (("a", table), ("b", moved(table, "2003-01-01"))):
        (tmp_path / name).mkdir()
        prices.to_csv(tmp_path / name / "prices.csv", index=False)
    compare = CompareConfig(first_test="2002-01-01", test_years=1)
    facts = []
    for name in "ab":
        fold, *_ = folds_of(compare, MarketConfig(data=str(tmp_path / name / "prices.csv")))
        (train,), (test,) = segments_of(fold.market, ("train", "test")).values()
        frames = backtest([test], fold.market.trading, rule([]))
        bounds = test.market.regimes.bounds
        facts.append((fold.market.train, fold.market.test, bounds, frames["prices"].to_numpy().tolist()))
        assert test.training == train.period
    assert facts[0] == facts[1]


@pytest.mark.parametrize("kind", KINDS[:2] + KINDS[6:], ids=str)
def test_regime_bounds_of_a_run_are_the_training_periods(config_of, kind):
    """Quantiles by hand of the index over the dates of the training period, and the same for every period."""
    segments = segments_of(config_of(kind))
    first, last = PERIODS[kind[0]]["train"]
    for i in range(kind[1]):
        market = segments["test"][i].market
        dates = pd.DatetimeIndex(market.dates)
        known = (dates >= first) & (dates < pd.Timestamp(last) + pd.Timedelta(days=1))
        assert market.regime[np.isnan(market.index)].tolist() == [-1] * (0 if i else 20)  # the second has its own index
        index = sorted(market.index[known & ~np.isnan(market.index)])
        for bound, share in zip(market.regimes.bounds, (0.383, 0.898, 0.986), strict=True):
            place = share * (len(index) - 1)
            below = int(place)
            assert bound == pytest.approx(index[below] + (place - below) * (index[below + 1] - index[below]))
        assert {segments[name][i].market.regimes.bounds for name in segments} == {market.regimes.bounds}
        labels = [sum(bound <= value for bound in market.regimes.bounds) for value in market.index]
        assert market.regime[20:].tolist() == labels[20:]


@pytest.mark.parametrize("frequency", DATES)
@pytest.mark.parametrize(("before", "after"), [("train", "validation"), ("validation", "test")])
def test_periods_may_touch_and_not_share_a_day(config_of, frequency, before, after):
    config = config_of((frequency, 1, "next_open"))
    segments = segments_of(config)
    assert segments[before][0].period.stop == segments[after][0].period.start
    shared = replace(config, **{after: (getattr(config, before)[1], getattr(config, after)[1])})
    with pytest.raises(ValueError, match="must follow one another without overlap"):
        segments_of(shared)


@pytest.mark.parametrize("bar", [-1, 0])
@pytest.mark.parametrize("name", PERIODS["daily"])
def test_a_runs_own_index_must_cover_its_periods_to_their_last_bar(config_of, name, bar):
    """Without one on the first or the last bar of a period a run is refused; before and after them it is not."""
    kind = ("daily", 2, "next_open")
    days = [pd.Timestamp("2000-01-11" if name == "train" else PERIODS["daily"][name][0]), LAST_BARS["daily"][name]]

    def without(day):
        return lambda t: t.assign(vix=t["vix"].mask(t["date"] == day)) if "vix" in t else t

    with pytest.raises(ValueError, match="no volatility_index for 1 of the bars of two"):
        segments_of(config_of(kind, without(days[bar])))
    segments_of(config_of(kind, without("2001-07-02")))


ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=16, batch_size=32, n_epochs=2, gamma=0.95)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("periods", [("train", "validation", "test"), ("train", "test")])
def test_a_run_trains_on_every_bar_of_its_training_period_and_no_other(tmp_path, periods, normalize):
    """Read off the rewards of the model's own environment; bar t of the file falls on day t of 2001."""
    market = naming_market(200)
    prices = pd.DataFrame(dict(date=market.dates, open=market.open, close=market.close))
    prices.assign(high=market.close * 1.1, low=market.open / 1.1).to_csv(tmp_path / "A.csv", index=False)
    days = dict(
        train=("2001-02-10", "2001-03-31"),  # days 40 to 89, counted from 0
        validation=("2001-04-01", "2001-04-30"),
        test=("2001-05-01", "2001-06-30"),
    )
    config = MarketConfig(data=str(tmp_path / "A.csv"), episode_bars=9, trading=FREE, **days)
    study = Study(
        RunConfig(n_envs=8, normalize_observations=normalize), config, ALGORITHM, segments_of(config, periods)
    )
    env = study.model.get_env()
    env.reset()
    rewards = np.stack([env.step(np.ones((8, 1), dtype=np.float32))[1] for _ in range(120)])
    assert sorted(set(bars_of(rewards / 100).ravel().tolist())) == list(range(40, 90))
    for name, bars in (("train", range(40, 90)), ("validation", range(90, 120)), ("test", range(120, 181))):
        if name in periods:
            frame = backtest(study.segments[name], FREE, buy_and_hold)["A"]
            assert bars_of(np.log1p(frame["return"])).tolist() == list(bars)


def trained(config, folder):
    """What a run of three evaluations leaves behind: its rows, its choice, and its figures of the test period."""
    run = RunConfig(
        total_timesteps=128,
        n_envs=4,
        eval_every=64,
        checkpoint_every=64,
        out=str(folder),
        name="run",
        progress_bar=False,
    )
    study = Study(run, config, ALGORITHM)
    path = study.start("")
    rows = pd.read_csv(path / "progress.csv")
    rows = rows.drop(columns=[name for name in rows if name.startswith("time/")]).round(12)
    frames = backtest(study.segments["test"], study.trading, study.agent())
    return {
        "learnt": rows.filter(regex="^(train|rollout)/").to_json(),
        "evaluations": rows.filter(regex="^eval/").to_json(),
        "best": json.loads((path / "best.json").read_text()),
        "bounds": [entry["regime_bounds"] for entry in json.loads((path / "run.json").read_text())["data"].values()],
        "test": {symbol: frame["return"].round(12).tolist() for symbol, frame in frames.items()},
    }


def test_training_and_selection_know_nothing_of_the_test_period(config_of, tmp_path, monkeypatch):
    """Whole runs: the test bars move its figures only, those of validation the choice but not what is learnt."""
    for name in ("savefig", "draw"):  # pictures take longer than all else
        monkeypatch.setattr(matplotlib.figure.Figure, name, lambda *_, **__: None)
    kind = ("hourly", 2, "close")

    def run(name, change=lambda table: table):
        return trained(config_of(kind, change), tmp_path / f"run-{name}")

    plain = run("plain")
    cuts, last = CUTS[kind[0]], LAST_BARS[kind[0]]

    test = run("test", lambda t: moved(t, cuts["test"]))
    assert {name for name in plain if plain[name] != test[name]} == {"test"}

    validation = run("validation", lambda t: moved(t, cuts["validation"], last["validation"]))
    assert {name for name in plain if plain[name] != validation[name]} == {"evaluations", "best", "test"}

    training = run("training", lambda t: moved(t, last["train"], last["train"]))
    assert {name for name in plain if plain[name] != training[name]} == set(plain)


OWN = ["macro", "rsi", "volume"]


@pytest.fixture
def own_config(tmp_path, tables):
    """A function that writes one symbol's bars with own columns, changed by a function, and gives the configuration."""
    rng = np.random.default_rng(11)
    table = tables["daily"]["one"].assign(macro=rng.normal(size=400), rsi=rng.normal(size=400))
    table["volume"] = rng.integers(50, 99, 400)

    def own_config(change=lambda table: table, **keys):
        change(table.copy()).to_csv(tmp_path / "own.csv", index=False)
        return MarketConfig(str(tmp_path / "own.csv"), features=OWN, **PERIODS["daily"], **keys)

    return table, own_config


def observed(config):
    """Everything that is observed from the first close of training to the last of the test, a row per bar."""
    first, last = config.train[0], config.test[1]
    (train,) = segments_of(config)["train"]
    seen = []
    whole = Segment.scaled_by(train.market, period_of(train.market, first, last), train.training)
    backtest([whole], config.trading, lambda known: seen.append(known.observations[0]) or np.ones(1))
    return whole.first, np.stack(seen)


@pytest.mark.parametrize("lag", [0, 1, 7])
@pytest.mark.parametrize("fill", [None, "forward"])
def test_features_of_a_bar_are_observed_at_its_close_plus_the_lag_and_not_before(own_config, lag, fill):
    """Every feature moves from a bar of the test period on: so do observations from ``lag`` bars later on."""
    table, config_of = own_config
    cut = int(table.index[table["date"] == CUTS["daily"]["within"]][0])

    def change(later):
        later.loc[cut:, OWN] += 100
        return later

    keys = dict(feature_lag=lag, feature_fill=fill)
    first, one = observed(config_of(**keys))
    _, two = observed(config_of(change, **keys))
    moved = first + np.flatnonzero((one != two).any(axis=1))
    assert moved.tolist() == list(range(cut + lag, first + len(one)))
    assert np.array_equal(np.delete(one, [22, 23, 24], axis=1), np.delete(two, [22, 23, 24], axis=1))


def test_features_are_scaled_by_the_training_bars_alone(own_config):
    """By pandas: the training period ends on bar 194, and its first 20 bars do not count."""
    table, config_of = own_config
    assert str(table["date"][194].date()) == PERIODS["daily"]["train"][1]
    known = table[OWN].assign(volume=np.log(table["volume"]).diff())
    for lag in (0, 3):
        first, seen = observed(config_of(feature_lag=lag))
        shifted = known.shift(lag)
        training = shifted[20:195]
        expected = ((shifted - training.mean()) / training.std(ddof=0))[first : first + len(seen)]
        assert seen[:, 22:25] == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_features_of_later_periods_move_no_scaling(own_config, name):
    _, config_of = own_config

    def change(later):
        later.loc[later["date"] >= PERIODS["daily"][name][0], OWN] *= 3
        return later

    (one,), (two,) = (segments_of(config)["train"] for config in (config_of(), config_of(change)))
    assert one.scaling == two.scaling
    assert one.scaling != segments_of(config_of(lambda t: t.assign(macro=t["macro"] * 3)))["train"][0].scaling
