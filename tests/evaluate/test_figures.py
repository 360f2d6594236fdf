"""Every figure per year, at weekly, daily and hourly bars, against plain loops; what pictures and tables show."""

import json
import re
from math import sqrt

import matplotlib.figure
import numpy as np
import pandas as pd
import pytest
import quantstats
from builders import regimes_of_rows

from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.account import Account, joint
from market_regimes.evaluate.figures import figures, figures_by_regime, sharpe_ratio, summary
from market_regimes.evaluate.pictures import equity_ticks, picture_of_equity, picture_of_returns, tear_sheet
from market_regimes.evaluate.play import backtest, random_timing
from market_regimes.evaluate.tables import print_summary
from market_regimes.market.market import Market
from market_regimes.market.segment import Segment
from market_regimes.run.study import Study

pytestmark = pytest.mark.usefixtures("pictures")

PER_YEAR = (52, 252, 365 * 24)
REGIME_BARS = {"calm": 20, "normal": 30, "volatile": 28, "crash": 19}  # 20 are enough for figures, 19 are not


def made_up(seed, first_loss):
    """A frame whose largest drawdown begins at the start, with still bars, and trades at the first and the last bar."""
    rng = np.random.default_rng(seed)
    bars = sum(REGIME_BARS.values())
    returns = rng.normal(0.002, 0.02, bars)
    returns[[5, 17, 18, 40]] = 0.0
    returns[0] = first_loss
    gross = returns + rng.uniform(0, 0.002, bars)
    trade = np.where(rng.random(bars) < 0.4, rng.normal(0, 1, bars), 0.0)
    trade[[0, -1]] = (1.0, -0.7)
    return pd.DataFrame(
        {
            "return": returns,
            "gross_return": gross,
            "target": rng.uniform(-1, 2, bars),
            "position": rng.uniform(-1, 2, bars),
            "trade": trade,
            "cost": np.abs(trade) * 1e-3 + 1e-4,
            "equity": np.cumprod(1 + returns),
            "gross_equity": np.cumprod(1 + gross),
            "price": 100.0,
            "index": 20.0,
            "regime": regimes_of_rows(rng.permutation(np.repeat(list(REGIME_BARS), list(REGIME_BARS.values())))),
        },
        index=pd.date_range("2001-01-01" if seed == 0 else "2001-02-10", periods=bars, name="date"),
    )


@pytest.fixture(scope="module")
def frames():
    """Two symbols; the second one begins and ends 40 days later."""
    return {"A": made_up(0, -0.3), "B": made_up(1, 0.01)}


def sharpe_of(returns, per_year):
    mean = sum(returns) / len(returns)
    variance = sum((r - mean) ** 2 for r in returns) / (len(returns) - 1)
    return sqrt(per_year) * mean / sqrt(variance)


def figures_of(rows, per_year):
    """By loops, of dicts of ``return``, ``gross``, ``position``, ``trade``, ``cost``, one per bar."""
    returns = [row["return"] for row in rows]
    bars, equity, gross, peak, drawdown = len(rows), 1.0, 1.0, 1.0, 0.0
    for row in rows:
        equity *= 1 + row["return"]
        gross *= 1 + row["gross"]
        peak = max(peak, equity)
        drawdown = min(drawdown, equity / peak - 1)
    below = sqrt(sum(min(r, 0.0) ** 2 for r in returns) / bars)
    return {
        "sharpe_ratio": sharpe_of(returns, per_year),
        "sortino_ratio": sqrt(per_year) * sum(returns) / bars / below,
        "calmar_ratio": (equity ** (per_year / bars) - 1) / -drawdown,
        "max_drawdown": drawdown,
        "hit_rate": sum(r > 0 for r in returns) / sum(r != 0 for r in returns),
        "total_return": equity - 1,
        "gross_return": gross - 1,
        "exposure": sum(abs(row["position"]) for row in rows) / bars,
        "turnover_per_year": sum(abs(row["trade"]) for row in rows) * per_year / bars,
        "costs_per_year": sum(row["cost"] for row in rows) * per_year / bars,
        "bars": bars,
    }


def together(frames, regime=None):
    """
    Rows of the account that opens one account per symbol with equal money: of all of them, or of those that are in the
    regime of their last bar, on days on which one with a bar is. By loops over days and symbols.
    """
    accounts = {symbol: dict(money=1.0, gross=1.0, held=0.0, regime=None) for symbol in frames}
    rows = []
    for day in sorted({day for frame in frames.values() for day in frame.index}):
        there = {symbol for symbol, frame in frames.items() if frame.index[0] <= day <= frame.index[-1]}
        with_bar = {symbol for symbol, frame in frames.items() if day in frame.index}
        for symbol in with_bar:
            accounts[symbol]["regime"] = frames[symbol].loc[day, "regime"]
        inside = {symbol for symbol in there if regime is None or accounts[symbol]["regime"] == regime}
        counted = list(frames) if regime is None else sorted(inside)
        before = sum(accounts[symbol]["money"] for symbol in counted)
        gross_before = sum(accounts[symbol]["gross"] for symbol in counted)
        trade = cost = 0.0
        for symbol in with_bar:
            bar, account = frames[symbol].loc[day], accounts[symbol]
            if symbol in counted:
                trade += account["money"] * abs(bar["trade"])
                cost += account["money"] * bar["cost"]
            account["money"] *= 1 + bar["return"]
            account["gross"] *= 1 + bar["gross_return"]
            account["held"] = account["money"] * abs(bar["position"])
        if with_bar & inside:
            after = sum(accounts[symbol]["money"] for symbol in counted)
            rows.append(
                {
                    "return": after / before - 1,
                    "gross": sum(accounts[symbol]["gross"] for symbol in counted) / gross_before - 1,
                    "position": sum(accounts[symbol]["held"] for symbol in inside) / after,
                    "trade": trade / before,
                    "cost": cost / before,
                }
            )
    return rows


@pytest.mark.parametrize("per_year", PER_YEAR)
def test_every_figure_joint_and_by_symbol_is_a_plain_loops(frames, per_year):
    result = summary({"agent": Account(frames)}, per_year)
    cases = [(frames, result["joint"]["agent"])]
    cases += [({symbol: frames[symbol]}, result["symbols"][symbol]["agent"]) for symbol in frames]
    for of, computed in cases:
        expected = figures_of(together(of), per_year)
        assert {name: computed[name] for name in expected} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("per_year", PER_YEAR)
def test_every_figure_by_regime_joint_and_by_symbol_is_a_plain_loops(frames, per_year):
    result = summary({"agent": Account(frames)}, per_year)
    cases = [(frames, result["joint"]["agent"])]
    cases += [({symbol: frames[symbol]}, result["symbols"][symbol]["agent"]) for symbol in frames]
    for of, computed in cases:
        assert list(computed["regimes"]) == ["calm", "normal", "volatile", "crash"]
        for regime, cell in computed["regimes"].items():
            rows = together(of, regime)
            assert cell["bars"] == len(rows)
            if len(rows) < 20:
                assert (cell["sharpe_ratio"], cell["exposure"]) == (None, None)
                continue
            expected = figures_of(rows, per_year)
            assert cell["sharpe_ratio"] == pytest.approx(expected["sharpe_ratio"], rel=1e-9)
            assert cell["exposure"] == pytest.approx(expected["exposure"], rel=1e-9)


def test_twenty_bars_of_a_regime_are_enough_and_nineteen_are_not(frames):
    table = figures_by_regime(Account({"A": frames["A"]}), 252)
    assert {name: cell["bars"] for name, cell in table.items()} == REGIME_BARS
    assert table["calm"]["sharpe_ratio"] is not None
    assert table["crash"]["sharpe_ratio"] is None


def test_trades_of_two_symbols_against_one_another_are_turnover(frames):
    """One buys what the other sells: half of the capital moves each way, so turnover is that of each."""
    one = frames["A"]
    mirrored = one.assign(trade=-one["trade"], position=-one["position"])
    for per_year in PER_YEAR:
        alone, both = figures(one, per_year), figures(joint({"A": one, "B": mirrored}), per_year)
        assert both["turnover_per_year"] == pytest.approx(alone["turnover_per_year"])
        assert both["exposure"] == pytest.approx(alone["exposure"])


def test_figures_by_hand():
    """
    Returns -50 %, +100 %, 0, +50 %, -20 %, four bars a year: equity 0.5, 1, 1, 1.5, 1.2.

    The mean is 0.16, the squared deviations are 0.4356 + 0.7056 + 0.0256 + 0.1156 + 0.1296 = 1.412.
    """
    returns = [-0.5, 1.0, 0.0, 0.5, -0.2]
    frame = (
        made_up(0, 0.0)
        .iloc[:5]
        .assign(
            **{
                "return": returns,
                "equity": np.cumprod(1 + np.array(returns)),
                "trade": [1.0, 0.0, -0.5, 0.0, -0.5],
                "cost": [0.01, 0.0, 0.0, 0.0, 0.02],
                "position": [1.0, -1.0, 0.0, 0.5, 0.0],
            }
        )
    )
    computed = figures(frame, 4)
    assert computed["sharpe_ratio"] == pytest.approx(2 * 0.16 / sqrt(1.412 / 4))
    assert computed["sortino_ratio"] == pytest.approx(2 * 0.16 / sqrt(0.29 / 5))
    assert computed["max_drawdown"] == pytest.approx(-0.5)  # from the start, which is a peak
    assert computed["calmar_ratio"] == pytest.approx((1.2 ** (4 / 5) - 1) / 0.5)
    assert computed["hit_rate"] == pytest.approx(2 / 4)  # the bar without a return does not count
    assert computed["total_return"] == pytest.approx(0.2)
    assert computed["exposure"] == pytest.approx(0.5)
    assert computed["turnover_per_year"] == pytest.approx(2.0 * 4 / 5)
    assert computed["costs_per_year"] == pytest.approx(0.03 * 4 / 5)


def plainly(returns):
    """A frame with these returns, one bar a day."""
    days = pd.date_range("2001-01-01", periods=len(returns), name="date")
    frame = pd.DataFrame({"return": returns, "gross_return": returns, "trade": 0.0, "cost": 0.0, "index": 20.0}, days)
    frame["equity"] = frame["gross_equity"] = np.cumprod(1 + np.array(returns))
    return frame.assign(position=1.0, target=1.0, regime=regimes_of_rows(["calm"] * len(frame)), price=100.0)


RNG = np.random.default_rng(11)
WITHOUT_LOSSES = {
    "one bar above +100 %": [0.0, 0.01, 1.5, 0.0, 0.02] * 5,
    "one bar of exactly +100 %": [0.0, 0.01, 1.0, 0.0, 0.02] * 5,
    "the first bar above +100 %": [1.5, *[0.0, 0.01, 0.02] * 8],
    "the last bar above +100 %": [*[0.0, 0.01, 0.02] * 8, 3.0],
    "gains only, one above +100 %": [0.03, 0.01, 2.5, 0.04, 0.02] * 5,
    "gains only, all small": (0.001 + RNG.random(30) / 100).tolist(),
    "all above +100 %": (1 + RNG.random(30)).tolist(),
    "a gain of a million": [0.0, 0.01, 1e6, 0.0, 0.02] * 5,
    "still bars and one small gain": [0.0] * 24 + [0.01],
}


@pytest.mark.parametrize("name", WITHOUT_LOSSES)
@pytest.mark.parametrize("per_year", PER_YEAR)
def test_returns_without_a_loss_are_not_taken_for_prices(name, per_year):
    """By the plain formulas; without a loss there is no drawdown, and no ratio that divides by one."""
    returns = WITHOUT_LOSSES[name]
    computed = figures(plainly(returns), per_year)
    assert computed["sharpe_ratio"] == pytest.approx(sharpe_of(returns, per_year), rel=1e-9)
    assert computed["hit_rate"] == sum(r > 0 for r in returns) / sum(r != 0 for r in returns)
    assert computed["max_drawdown"] == 0.0
    assert computed["sortino_ratio"] is None
    assert computed["calmar_ratio"] is None
    assert computed["total_return"] == pytest.approx(np.prod([1 + r for r in returns]) - 1)
    cell = figures_by_regime(Account({"A": plainly(returns)}), per_year)["calm"]
    assert cell["sharpe_ratio"] == pytest.approx(sharpe_of(returns, per_year), rel=1e-9)
    two = {"A": plainly(returns), "B": plainly(returns)}
    assert figures(joint(two), per_year)["sharpe_ratio"] == pytest.approx(sharpe_of(returns, per_year), rel=1e-9)


def test_a_regime_without_a_loss_in_a_strategy_with_losses_has_its_ratio():
    """Of the calm bars nothing is below 0 and one above +100 %; the losses fell on normal ones."""
    calm, normal = [0.0, 0.01, 1.5, 0.02] * 6, [-0.02, 0.01] * 12
    returns = [r for pair in zip(calm, normal, strict=True) for r in pair]
    frame = plainly(returns).assign(regime=regimes_of_rows(["calm", "normal"] * 24))
    table = figures_by_regime(Account({"A": frame}), 252)
    assert table["calm"]["sharpe_ratio"] == pytest.approx(sharpe_of(calm, 252), rel=1e-9)
    assert table["normal"]["sharpe_ratio"] == pytest.approx(sharpe_of(normal, 252), rel=1e-9)


@pytest.mark.parametrize("returns", [[0.0], [0.5], [2.0], [-0.5], [0.0, 0.0], [1.5, 1.5], [-1.0 + 0.01, 5.0]])
def test_one_or_two_bars_have_figures(returns):
    computed = figures(plainly(returns), 252)
    assert computed["max_drawdown"] == pytest.approx(min(0.0, min(np.cumprod(1 + np.array(returns))) - 1))
    vary = len(set(returns)) > 1
    assert (computed["sharpe_ratio"] is not None) == vary
    if vary:
        assert computed["sharpe_ratio"] == pytest.approx(sharpe_of(returns, 252))


@pytest.mark.parametrize("of", ["agent", "benchmark"])
def test_a_tear_sheet_does_not_take_returns_for_prices(of, tmp_path):
    """60 days without a loss, one of them at +150 %, beside an index."""
    gains = plainly([0.0, 0.01, 0.02, 0.0, 0.001] * 12)["return"]
    gains.iloc[7] = 1.5
    index = plainly(RNG.normal(0, 0.01, 60).tolist())["return"]
    series = (gains, index) if of == "agent" else (index, gains)
    tear_sheet(*series, tmp_path / "sheet.html", "title", 252)
    html = (tmp_path / "sheet.html").read_text()

    def row(name):
        return re.search(rf"<td>{name}</td><td>([^<]*)</td><td>([^<]*)</td>", html).groups()

    column = 1 if of == "agent" else 0  # the benchmark stands first
    total = 100 * (np.prod(1 + gains.to_numpy()) - 1)
    assert float(row("Cumulative Return")[column].rstrip("%").replace(",", "")) == pytest.approx(total, abs=0.01)
    assert float(row("Sharpe")[column]) == pytest.approx(sharpe_of(gains.tolist(), 252), abs=0.01)
    assert row("Max Drawdown")[column] == "-"


def test_a_tear_sheet_that_quantstats_would_make_of_prices_is_left_out(tmp_path):
    gains = plainly([0.03, 0.01, 2.5, 0.04, 0.02] * 5)["return"]
    with pytest.raises(ValueError, match="takes the returns of agent for prices"):
        tear_sheet(gains, gains - 0.05, tmp_path / "sheet.html", "title", 252)
    assert list(tmp_path.iterdir()) == []


def test_the_sharpe_ratios_of_random_timings_are_those_of_one_shift_of_both_symbols():
    """
    Two runs that can be told apart: a rule that is long three bars of seven, shifted by one number of rows for both. B
    begins ten rows late: the targets that a shift moves out of its life fill, in order, the rows it leaves empty.
    """
    rng = np.random.default_rng(0)
    segments = []
    for symbol, start in (("A", 21), ("B", 31)):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 81)))
        dates = np.datetime64("2001-01-01", "s") + 86400 * np.arange(81)
        market = Market(symbol, "nowhere", dates, close, close, np.arange(1.0, 82), np.full(81, 20.0), 8760.0)
        segments.append(Segment.scaled_by(market, range(start, 81), range(0, 81)))
    costs = TradingCosts(fee_bp=0.0, fill="close")
    agent = backtest(segments, costs, lambda known: (known.bar % 81 % 7 < 3).astype(float))
    earned = {s.market.symbol: s.market.close[1:] / s.market.close[:-1] - 1 for s in segments}
    possible = set()
    for shift in range(1, 60):
        one = np.roll(agent["A"]["target"].to_numpy(), -shift)
        of_b = dict(enumerate(agent["B"]["target"], start=10))  # by row
        wanted = {row: (row + shift) % 60 for row in of_b}
        unused = iter(sorted(of_b.keys() - set(wanted.values())))
        two = [of_b[source if source in of_b else next(unused)] for source in wanted.values()]
        equity = (1 + one * earned["A"][20:]).cumprod()
        equity[:10] += 1.0
        equity[10:] += (1 + np.array(two) * earned["B"][30:]).cumprod()
        returns = equity / np.concatenate([[2.0], equity[:-1]]) - 1
        possible.add(round(returns.mean() / returns.std(ddof=1), 9))
    _, ratios = random_timing(segments, costs, agent, seed=3, runs=100)
    assert sorted({round(ratio, 9) for ratio in ratios}) == sorted(possible)
    assert len(ratios) == 59  # all there are, each once, and not the agent itself
    shifted, ratios = random_timing(segments, costs, agent, seed=3, runs=5)
    assert {round(ratio, 9) for ratio in ratios} <= possible
    chosen = sharpe_of(joint(shifted)["return"].tolist(), 1)
    assert chosen == pytest.approx(sorted(ratios)[2])
    shifted, ratios = random_timing(segments, costs, agent, seed=3, runs=4)
    assert sharpe_of(joint(shifted)["return"].tolist(), 1) == pytest.approx(sorted(ratios)[1])  # the lower middle one


@pytest.mark.parametrize("per_year", PER_YEAR)
def test_a_tear_sheet_is_annualised_as_the_figures(frames, tmp_path, monkeypatch, per_year):
    seen = {}

    def html(*series, output, **keywords):
        seen.update(keywords, names=[one.name for one in series])
        (tmp_path / "sheet.html.tmp").write_text("<html>")

    monkeypatch.setattr(quantstats.reports, "html", html)
    tear_sheet(frames["A"]["return"], frames["B"]["return"], tmp_path / "sheet.html", "title", per_year)
    assert seen["periods_per_year"] == per_year
    assert seen["names"] == ["agent", "buy and hold"]


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved."""
    saved = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    return saved


def prices_at(frequency, make_prices, seed, bars=420):
    dates = {
        "weekly": pd.date_range("2001-01-05", periods=bars, freq="W-FRI"),
        "daily": pd.bdate_range("2001-01-01", periods=bars),
        "hourly": pd.date_range("2001-01-01", periods=bars, freq="h"),
    }[frequency]
    return make_prices(bars, seed=seed).assign(date=dates)


ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=16, batch_size=16, gamma=0.95)


@pytest.mark.parametrize(
    ("frequency", "per_year", "days"),
    [
        ("weekly", 52, ("2001-01-05", "2004-12-31", "2006-12-31", "2008-12-26")),
        ("daily", 261, ("2001-01-01", "2001-09-28", "2002-02-28", "2002-08-02")),
        ("hourly", 365 * 24, ("2001-01-01", "2001-01-08", "2001-01-13", "2001-01-17")),
    ],
)
def test_a_runs_scores_and_evaluation_are_per_year_of_its_bars(
    tmp_path, make_prices, monkeypatch, drawn, frequency, per_year, days
):
    """Of an untrained agent on two symbols, against loops over its own backtest."""
    monkeypatch.setattr(quantstats.reports, "html", lambda *_, **__: 1 / 0)  # the tear sheet is left out
    folder = tmp_path / "data"
    folder.mkdir()
    for i, name in enumerate("AB"):
        prices_at(frequency, make_prices, i).to_csv(folder / f"{name}.csv", index=False)
    after = [str((pd.Timestamp(day) + pd.Timedelta(days=1)).date()) for day in days[1:3]]
    config = MarketConfig(
        str(folder),
        train=(days[0], days[1]),
        validation=(after[0], days[2]),
        test=(after[1], days[3]),
        episode_bars=20,
        trading=TradingCosts(-1.0, 0.5),  # the benchmark may hold 1 all the same
    )
    study = Study(RunConfig(n_envs=2), config, ALGORITHM)
    assert study.core.bars_per_year == per_year
    of = {name: backtest(study.segments[name], study.trading, study.agent()) for name in ("validation", "test")}

    scores, _ = study.score()
    expected = figures_of(together(of["validation"]), per_year)
    assert scores["sharpe_ratio"] == pytest.approx(expected["sharpe_ratio"])
    assert scores["max_drawdown"] == pytest.approx(expected["max_drawdown"])
    returns = [row["return"] for row in together(of["validation"])]
    assert scores["mean_reward"] == pytest.approx(100 * sum(np.log1p(r) for r in returns))
    for regime in ("calm", "normal", "volatile", "crash"):
        rows = together(of["validation"], regime)
        if len(rows) < 60:
            assert scores[f"sharpe_{regime}"] is None
        else:
            assert scores[f"sharpe_{regime}"] == pytest.approx(sharpe_of([row["return"] for row in rows], per_year))

    study.evaluate(tmp_path, "test")
    result = json.loads((tmp_path / "evaluation-test.json").read_text())
    expected = figures_of(together(of["test"]), per_year)
    computed = result["joint"]["agent"]
    assert {name: computed[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    _, ratios = random_timing(study.segments["test"], study.trading, of["test"], seed=0)
    below = np.sum(np.sqrt(per_year) * ratios < expected["sharpe_ratio"] - 1e-9)
    equal = np.sum(np.abs(np.sqrt(per_year) * ratios - expected["sharpe_ratio"]) < 1e-9)
    share = (below + equal / 2 + 1 / 2) / (len(ratios) + 1)  # the agent is one of them
    assert result["share_of_random_timings_below_agent"] == pytest.approx(share)
    assert result["random_timings"] == len(ratios)
    held = backtest(study.segments["test"], TradingCosts(-1.0, 1.0), lambda known: np.ones(2))
    assert result["joint"]["buy and hold"]["sharpe_ratio"] == pytest.approx(
        figures_of(together(held), per_year)["sharpe_ratio"]
    )


def test_a_cells_figures_are_per_year_of_its_bars(tmp_path, make_prices):
    """Hourly bars; buy-and-hold trades once, 1 / (1 + 1e-4) of the capital for a fee of 1e-4 of that."""
    prices_at("hourly", make_prices, 0).to_csv(tmp_path / "A.csv", index=False)
    days = dict(train=("2001-01-01", "2001-01-08"), test=("2001-01-09", "2001-01-17"))
    market = MarketConfig(str(tmp_path / "A.csv"), episode_bars=20, **days)
    run = RunConfig(n_envs=8, total_timesteps=128)
    result = run_cell(Cell("A", "fold", "one", 0, run, market, ALGORITHM))
    daily, computed = pd.DataFrame(result["daily"]), result["figures"]
    assert result["bars_per_year"] == 8760
    assert len(daily) == 9 * 24
    assert computed["test_sharpe"] == pytest.approx(sharpe_of(daily["return"].tolist(), 8760), rel=1e-3)
    assert computed["hold_sharpe"] == pytest.approx(sharpe_of(daily["hold"].tolist(), 8760), rel=1e-3)
    years = 9 * 24 / 8760
    assert computed["hold_turnover"] == pytest.approx(1 / 1.0001 / years)
    assert computed["hold_costs"] == pytest.approx(1e-4 / 1.0001 / years)


def lines(axis):
    return [line.get_ydata() for line in axis.get_lines()]


def test_the_picture_of_equity_draws_equity_and_drawdown_from_the_start(frames, drawn, tmp_path):
    one, two = frames.values()
    picture_of_equity({"agent": one, "buy and hold": two}, tmp_path / "equity.png", "title")
    equity, drawdown, exposure, index = drawn[0].axes
    gross, agent, hold, scaled = lines(equity)
    assert [gross.tolist(), agent.tolist(), hold.tolist()] == [
        one["gross_equity"].tolist(),
        one["equity"].tolist(),
        two["equity"].tolist(),
    ]
    growth = scaled / np.concatenate([[1.0], scaled[:-1]]) - 1
    assert growth.std() == pytest.approx(one["return"].std(ddof=0))
    assert np.corrcoef(growth, two["return"])[0, 1] == pytest.approx(1)
    assert equity.get_yscale() == "log"
    assert 1.0 in equity.get_yticks()
    zorders = [
        line.get_zorder() for axis in (equity, drawdown) for line in axis.get_lines()[-3 if axis is equity else 0 :]
    ]
    assert zorders == [3, 2, 2, 3, 2]  # the agent's line on top
    for line, frame in zip(lines(drawdown), (one, two), strict=True):
        peak, expected = 1.0, []
        for value in frame["equity"]:
            peak = max(peak, value)
            expected.append(100 * (value / peak - 1))
        assert line == pytest.approx(expected, abs=1e-9)
    positions = one["position"].tolist()
    means = [np.mean(positions[max(0, i - 19) : i + 1]) for i in range(len(positions))]
    assert lines(exposure)[0] == pytest.approx([100 * mean for mean in means], abs=1e-9)
    assert lines(index)[0].tolist() == one["index"].tolist()


@pytest.mark.parametrize(("low", "high"), [(0.8, 1.3), (0.97, 1.02), (0.5, 20.0), (0.01, 3.0), (2.0, 4.0)])
def test_ticks_of_equity_are_plain_numbers_apart_and_1_is_one_of_them(low, high):
    ticks = equity_ticks(low, high)
    assert (1.0 in ticks) == (low <= 1 <= high)
    assert ticks == sorted(ticks)
    assert len(ticks) >= 4
    assert np.diff(np.log(ticks)).min() >= 0.05 * np.log(high / low)


def test_the_picture_of_returns_says_what_it_shows(frames):
    quantiles, outcomes = np.zeros((2 * len(frames["A"]), 4)), np.zeros(2 * len(frames["A"]))
    one, two = {"A": frames["A"]}, {"A": frames["A"], "B": frames["A"]}
    for shown, of in ((one, "A: title"), (two, "A, one of 2 symbols: title")):
        fan = picture_of_returns(
            shown, quantiles[: len(shown) * len(frames["A"])], outcomes[: len(shown) * len(frames["A"])], "title"
        ).axes[0]
        assert (fan.get_title(), fan.get_ylabel()) == (of, "discounted log growth, %")


def test_the_picture_of_returns_counts_outcomes_below_each_quantile_by_regime(frames):
    """Quantiles 1, 3, 2, 0 cross; a third of the outcomes is 0.5, a third 1.5, a third 2, one is unknown."""
    frame = frames["A"]
    quantiles = np.tile([1.0, 3.0, 2.0, 0.0], (len(frame), 1))
    outcomes = np.resize([0.5, 1.5, 2.0], len(frame)).astype(float)
    outcomes[np.argmax(frame["regime"] == "normal")] = np.nan
    figure = picture_of_returns({"A": frame}, quantiles, outcomes, "title")
    fan, share = figure.axes
    assert fan.get_lines()[0].get_ydata() == pytest.approx([1.5] * len(frame))  # the median of 0, 1, 2, 3
    assert np.array_equal(fan.get_lines()[1].get_ydata(), outcomes, equal_nan=True)
    by_label = {line.get_label(): line for line in share.get_lines()}
    assert by_label["all"].get_xdata() == pytest.approx([0.125, 0.375, 0.625, 0.875])
    groups = {
        "all": frame["regime"] != "",
        **{name: frame["regime"] == name for name in ("calm", "normal", "volatile")},
    }
    assert {label for label in by_label if not label.startswith("_")} == set(groups)  # of crash there are 19 bars
    for name, rows in groups.items():
        came = [outcome for outcome in outcomes[rows] if not np.isnan(outcome)]
        expected = [sum(outcome < q for outcome in came) / len(came) for q in (0, 1, 2, 3)]
        assert by_label[name].get_ydata() == pytest.approx(expected)


def test_the_table_shows_each_figure_as_it_is(frames, capsys):
    """Costs of 24.7 % a year are not 0.2, and an undefined ratio is not 0."""
    result = summary({"agent": Account(frames)}, 252)
    agent = result["joint"]["agent"]
    agent |= {"sharpe_ratio": 1.234, "sortino_ratio": None, "costs_per_year": 0.2468, "turnover_per_year": 12.345}
    agent |= {"exposure": 0.456, "hit_rate": 0.5123, "bars": 97.0}
    print_summary({**result, "share_of_random_timings_below_agent": 0.875}, "title")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["sharpe_ratio", "1.23"],
        ["sortino_ratio", "n/a"],
        ["costs_per_year", "24.7", "%"],
        ["turnover_per_year", "12.35"],
        ["exposure", "46", "%"],
        ["hit_rate", "51.2", "%"],
        ["bars", "97"],
    ):
        assert row in rows
    assert "rank of the agent among its random timings, equal ones by half: 87.5 %" in " ".join(rows[-1])


# The one formula of a Sharpe ratio.


def test_the_sharpe_ratio_by_hand():
    """Returns 1 %, 3 %, -1 %: mean 1 %, deviations 0, 2 and -2, variance 8 / 2 = 4, so 1 / 2 a bar."""
    returns = np.array([0.01, 0.03, -0.01])

    assert sharpe_ratio(returns, 1.0) == pytest.approx(0.5)
    assert sharpe_ratio(returns, 252.0) == pytest.approx(0.5 * sqrt(252))


@pytest.mark.parametrize("per_year", [1.0, 252.0, 365.0])
def test_the_sharpe_ratio_of_a_vector_and_of_each_column_is_that_of_quantstats(per_year):
    returns = np.random.default_rng(3).normal(0.001, 0.02, (300, 4))

    expected = [quantstats.stats.sharpe(pd.Series(column), periods=per_year) for column in returns.T]

    assert sharpe_ratio(returns, per_year) == pytest.approx(expected, rel=1e-12)
    for column, ratio in zip(returns.T, expected, strict=True):
        assert sharpe_ratio(column, per_year) == pytest.approx(ratio, rel=1e-12)


def test_a_sharpe_ratio_without_spread_is_undefined():
    varied = np.array([0.01, -0.02, 0.03])
    matrix = np.stack([varied, np.full(3, 0.1), np.zeros(3)], axis=1)  # the second spreads by rounding

    assert np.isnan(sharpe_ratio(matrix, 252.0)).tolist() == [False, True, True]
    assert np.isnan(sharpe_ratio(np.zeros(9), 252.0))
    assert np.isnan(sharpe_ratio(np.array([0.01]), 252.0))
    assert np.isnan(sharpe_ratio(np.empty((0, 2)), 252.0)).tolist() == [True, True]
