"""Tables of a comparison, row by row against plain loops over made-up cells, each of which has numbers of its own."""

import json
import re
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from comparisons import KEYS, NO_DAYS, cell_table, paired_values, seed_grids, spoiled_cell_table
from scipy import stats

from market_regimes.compare.catalogue import compared_figures
from market_regimes.compare.cell import Cell, run_cell
from market_regimes.compare.comparison import Comparison, cells_of
from market_regimes.compare.folds import folds_of
from market_regimes.compare.headline import headline
from market_regimes.compare.html_report import facts_of, write_report
from market_regimes.compare.printing import print_by_regime
from market_regimes.compare.statistics import deflated_sharpe, effect, sharpe_difference
from market_regimes.compare.tables import analysed, tables_of, write_tables
from market_regimes.config import CompareConfig, MarketConfig, RunConfig, TradingCosts
from market_regimes.market.walk_forward import Fold

HIGHER_IS_BETTER = {
    "explained_variance",
    "test_mean_reward",
    "test_sharpe",
    "test_attained",
    "test_growth",
    "test_attained_growth",
    "test_sortino",
    "test_max_drawdown",  # at most 0
    "test_explained_variance",
}


@pytest.fixture(scope="module")
def cells():
    return spoiled_cell_table(variants=("batch", "baseline", "control"))


@pytest.fixture(scope="module")
def tables(cells):
    return analysed(cells, pd.DataFrame(), NO_DAYS, "baseline")


def test_every_row_of_effects_is_that_of_its_market_variant_and_metric(cells, tables):
    rows = tables.effects.to_dict("records")
    order = list(dict.fromkeys(cells["variant"]))
    order.remove("baseline")
    expected = [(m, v, k) for m in ("all", *dict.fromkeys(cells["market"])) for k in compared_figures() for v in order]
    assert [(row["market"], row["variant"], row["metric"]) for row in rows] == expected
    for row in rows:
        market, variant, metric = (row[name] for name in ("market", "variant", "metric"))
        higher = metric in HIGHER_IS_BETTER
        ours, theirs = paired_values(cells, metric, market, variant, "baseline")
        assert row["pairs"] == len(ours)
        assert row["difference"] == pytest.approx(stats.trim_mean(ours - theirs, 0.25))
        assert row["variant_value"] == pytest.approx(stats.trim_mean(ours, 0.25))
        assert row["baseline"] == pytest.approx(stats.trim_mean(theirs, 0.25))
        assert row["relative"] == pytest.approx(row["difference"] / abs(row["baseline"]))
        found = asdict(effect(*seed_grids(cells, metric, market, variant, "baseline"), higher))
        for name in ("low", "high", "relative_low", "relative_high", "improvement", "seeds_needed"):
            assert row[name] == pytest.approx(found[name]), (row, name)
        assert (row["higher_is_better"], row["label"]) == (higher, compared_figures()[metric].label)
        sides = {"better", "worse"} if row["low"] > 0 or row["high"] < 0 else {"no difference shown"}
        assert row["verdict"] in sides
        assert row["verdict"] != ("worse" if (row["difference"] > 0) == higher else "better")
    assert {row["verdict"] for row in rows} == {"better", "worse", "no difference shown"}


@pytest.mark.parametrize("baseline", ["control", "tier1"])
def test_any_variant_may_be_the_baseline(baseline):
    cells = cell_table(metrics=["test_sharpe"])
    effects = analysed(cells, pd.DataFrame(), NO_DAYS, baseline).effects.set_index(["market", "variant"])
    assert baseline not in effects.index.unique("variant")
    for (market, variant), row in effects.iterrows():
        ours, theirs = paired_values(cells, "test_sharpe", market, variant, baseline)
        assert row["difference"] == pytest.approx(stats.trim_mean(ours - theirs, 0.25))


def test_one_market_is_all_markets():
    effects = analysed(
        cell_table(markets=("one",), metrics=["value_loss"]), pd.DataFrame(), NO_DAYS, "baseline"
    ).effects
    assert list(effects["market"].unique()) == ["all"]
    assert list(effects["metric"].unique()) == ["value_loss"]  # no cell has the others


# Sharpe ratios


def days_of(cells, length=80):
    """Returns of every cell that ran; those of buy-and-hold are the market's and the fold's."""
    rng, rows = np.random.default_rng(1), []
    mean = {v: rng.normal(0.001, 0.002) for v in sorted(cells["variant"].unique())}
    held = {key: rng.normal(0.001, 0.01, length) for key in set(zip(cells["market"], cells["fold"], strict=True))}
    for cell in cells[cells["status"] == "ok"].to_dict("records"):
        first = {"early": "2001-01-01", "late": "2005-01-01"}[cell["fold"]]
        frame = pd.DataFrame({"date": pd.date_range(first, periods=length)}).assign(
            hold=held[cell["market"], cell["fold"]], position=1.0, index=20.0, **{k: cell[k] for k in KEYS}
        )
        frame["fitted"] = frame["hold"] + 0.01
        frame["informed"] = frame["hold"] + (0.02 if cell["market"] == "one" else np.nan)
        rows.append(frame.assign(**{"return": rng.normal(mean[cell["variant"]], 0.01, length)}))
    return pd.concat(rows, ignore_index=True)


def mean_returns(days, market):
    """By variant and then by day the mean over the seeds, of days that all variants have."""
    found = {}
    for row in days[days["market"] == market].to_dict("records"):
        found.setdefault(row["variant"], {}).setdefault((row["fold"], row["date"]), []).append(row["return"])
    common = sorted(set.intersection(*(set(by_day) for by_day in found.values())))
    return {name: np.array([np.mean(by_day[day]) for day in common]) for name, by_day in found.items()}, common


@pytest.mark.parametrize("baseline", ["baseline", "control", "not there"])
def test_every_row_of_sharpe_ratios_is_that_of_its_market_and_variant(baseline):
    cells = cell_table(variants=("batch", "baseline", "control"), seeds=3, metrics=[])
    cells["bars_per_year"] = cells["market"].map({"one": 52.0, "two": 365 * 24.0})
    cells.loc[(cells["variant"] == "batch") & (cells["seed"] == 2), "status"] = "failed"
    days = days_of(cells)
    days = days[~((days["variant"] == "control") & (days["date"] == "2005-02-03"))]
    rows = analysed(cells, pd.DataFrame(), days, baseline).sharpe.to_dict("records")
    assert sorted((row["market"], row["variant"]) for row in rows) == [
        (market, variant) for market in ("one", "two") for variant in ("baseline", "batch", "control")
    ]
    for row in rows:
        returns, common = mean_returns(days, row["market"])
        assert len(common) == 159
        own, year = returns[row["variant"]], {"one": 52, "two": 365 * 24}[row["market"]]
        assert row["years"] == 159 / year
        assert row["sharpe_seeds_together"] == pytest.approx(own.mean() / own.std(ddof=1) * np.sqrt(year))
        of_market = days[days["market"] == row["market"]].to_dict("records")
        by_day = {(day["fold"], day["date"]): day["hold"] for day in of_market}
        held = np.array([by_day[day] for day in common])
        assert row["hold"] == pytest.approx(held.mean() / held.std(ddof=1) * np.sqrt(year))
        if row["market"] == "one":  # whose law is known
            knowing = (held.mean() + 0.02) / held.std(ddof=1) * np.sqrt(year)
            assert row["informed"] == pytest.approx(knowing)
            share = (row["sharpe_seeds_together"] - row["hold"]) / (knowing - row["hold"])
            assert row["attained_seeds_together"] == pytest.approx(share)
        else:
            assert pd.isna([row["informed"], row["attained_seeds_together"]]).all()
        assert row["fitted"] == pytest.approx((held.mean() + 0.01) / held.std(ddof=1) * np.sqrt(year))

        # Growth: the log of what 1 became, over the years.
        growth = np.log(np.prod(1 + own)) / (159 / year)
        growth_of_hold = np.log(np.prod(1 + held)) / (159 / year)
        assert row["growth_seeds_together"] == pytest.approx(growth)
        assert row["hold_growth"] == pytest.approx(growth_of_hold)
        if row["market"] == "one":
            growth_of_law = np.log(np.prod(1.02 + held)) / (159 / year)
            share = (growth - growth_of_hold) / (growth_of_law - growth_of_hold)
            assert row["informed_growth"] == pytest.approx(growth_of_law)
            assert row["attained_growth_seeds_together"] == pytest.approx(share)
        else:
            assert pd.isna([row["informed_growth"], row["attained_growth_seeds_together"]]).all()

        trials = np.array([each.mean() / each.std(ddof=1) for each in returns.values()])
        assert row["deflated"] == pytest.approx(deflated_sharpe(own, trials))
        lead = [row[name] for name in ("lead_over_hold", "lead_low", "lead_high")]
        assert lead == pytest.approx(sharpe_difference(own, held, year))
        difference = [row[name] for name in ("difference", "low", "high")]
        if baseline in (row["variant"], "not there"):
            assert pd.isna(difference).all()
        else:
            assert difference == pytest.approx(sharpe_difference(own, returns[baseline], year))


def test_returns_without_spread_have_no_sharpe_ratio():
    cells = cell_table(variants=("baseline", "batch"), markets=("one",), seeds=2, metrics=[])
    days = days_of(cells)
    days.loc[days["variant"] == "batch", "return"] = 0.0
    baseline, batch = analysed(cells, pd.DataFrame(), days, "baseline").sharpe.sort_values("variant").to_dict("records")
    assert np.isfinite([baseline[name] for name in ("sharpe_seeds_together", "lead_low")]).all()
    undefined = ["sharpe_seeds_together", "difference", "low", "high", "deflated"]
    undefined += ["lead_over_hold", "lead_low", "lead_high"]
    assert pd.isna([batch[name] for name in undefined]).all()
    assert batch["growth_seeds_together"] == 0


def test_the_seeds_together_and_the_median_of_the_cells_are_two_figures_with_two_names(capsys, monkeypatch, tmp_path):
    """Two seeds whose noise is opposite: together they have the days' alone, a tenth of it."""
    monkeypatch.setenv("COLUMNS", "300")
    rng = np.random.default_rng(0)
    dates = pd.date_range("2001-01-01", periods=400)
    day, noise = 0.01 * rng.normal(size=(2, 400))
    rows = []
    daily = []
    for variant in ("baseline", "batch"):
        for seed, sign in ((0, 1), (1, -1)):
            returns = 0.001 + 0.1 * day + sign * noise
            ratio = np.sqrt(252) * returns.mean() / returns.std(ddof=1)
            keys = dict(market="m", fold="f", variant=variant, seed=seed)
            rows.append(keys | dict(status="ok", error=None, bars_per_year=252.0, seconds=1.0, test_sharpe=ratio))
            columns = {"return": returns, "hold": day, "position": 1.0, "index": 20.0}
            daily.append(pd.DataFrame({"date": dates, **columns}).assign(**keys))
    tables = analysed(pd.DataFrame(rows), pd.DataFrame(), pd.concat(daily), "baseline")
    cells = np.median([row["test_sharpe"] for row in rows])
    together = tables.sharpe["sharpe_seeds_together"].iloc[0]
    assert together > 5 * cells  # 16 against 1.6
    assert "sharpe" not in tables.sharpe
    sentence = headline(tables.effects, tables.sharpe, tables.daily, "baseline")[-1]
    assert "each variant's seeds together: 2 of 2 variants beat buy-and-hold; best is baseline" in sentence
    assert f"Sharpe ratio {together:.2f} against " in sentence
    print_by_regime(tables.cells)
    shown = capsys.readouterr().out
    assert "medians over the cells" in shown
    assert re.search(rf"Sharpe of *\n.*a cell *\n.*\n.* {cells:.2f} *\n", shown)
    write_tables(tmp_path, tables)
    write_report(tmp_path / "report.html", tables, "title", "baseline", "", {})
    page = (tmp_path / "report.html").read_text()
    assert "Sharpe ratio of the seeds together" in page
    assert "Sharpe ratio of a cell, test" in page
    assert pd.read_csv(tmp_path / "sharpe.csv")["sharpe_seeds_together"].iloc[0] == pytest.approx(together, rel=1e-5)
    assert pd.read_csv(tmp_path / "effects.csv")["label"].tolist() == ["Sharpe ratio of a cell, test"]


def test_failed_cells_are_left_out_and_nothing_at_all_is_no_error():
    table = cell_table(metrics=["test_sharpe", "value_loss_spread"])
    table.loc[table["variant"] == "batch", "status"] = "failed"
    tables = analysed(table, pd.DataFrame(), NO_DAYS, "baseline")
    batch = tables.effects[tables.effects["variant"] == "batch"]
    assert (batch["verdict"] == "n/a").all()
    table["status"] = "failed"
    assert (analysed(table, pd.DataFrame(), NO_DAYS, "baseline").effects["pairs"] == 0).all()


# From result files to tables


@pytest.fixture
def compared(tmp_path):
    """A comparison whose cells have results, folds of which one is too short, and a variant chosen by the early one."""
    variants = {"baseline": {}, "batch": {"chosen_before": "2005-01-01"}}
    config = {
        name: MarketConfig(test=(f"{year}-01-01", f"{year}-12-31"))
        for name, year in (("early", 2001), ("late", 2005), ("short", 2009))
    }
    folds = [
        Fold(label, name, market, "its test period has 3 bars" if name == "short" else None, "")
        for label in ("one", "two")
        for name, market in config.items()
    ]
    cells = [
        Cell(fold.label, fold.name, variant, seed, RunConfig(), fold.market, {})
        for seed in (3, 4)
        for fold in folds
        for variant in variants
        if fold.missing is None and (variant, fold.name) != ("batch", "early")
    ]
    comparison = Comparison(tmp_path / "a comparison", cells)
    for i, path in comparison.paths.items():
        result = {
            "status": "ok",
            "figures": {"value_loss": i + 0.5, "test_sharpe": None if i == 2 else -float(i), "grad_ratio_crash": 0.5},
            "curves": {"step": [128 * (i + 1), 256 * (i + 1)], "reward": [i, None]},
            "daily": {"date": ["2005-01-03", "2005-01-04"], "return": [i / 100, 0.0], "hold": [0.01, 0.02]},
            "bars_per_year": 52.0,
            "seconds": 1000.0 * i,
        }
        if i == 4:
            result = {"status": "failed", "error": "ValueError: no | such thing"}
        if i != 5:
            path.write_text(json.dumps(result))
    return comparison, folds, variants


def key_of(row):
    return row["market"], row["fold"], row["variant"], row["seed"]


def test_every_result_is_in_the_row_of_its_cell(compared):
    comparison, folds, variants = compared
    tables = tables_of(comparison, folds, variants, "baseline")
    rows = tables.cells.to_dict("records")
    keys = [(c.label, c.fold, c.variant, c.seed) for c in comparison.cells]
    assert [key_of(row) for row in rows[: len(keys)]] == keys
    for i, row in enumerate(rows[: len(keys)]):
        assert row["status"] == {4: "failed", 5: "missing"}.get(i, "ok")
        assert row["error"] == "ValueError: no | such thing" if i == 4 else pd.isna(row["error"])
        there = row["status"] == "ok"
        figures = [
            row[name] for name in ("value_loss", "test_sharpe", "seconds", "bars_per_year", "grad_imbalance_crash")
        ]
        sharpe = np.nan if i == 2 else -float(i)
        expected = [i + 0.5, sharpe, 1000.0 * i, 52.0, 0.693147] if there else [np.nan] * 5
        assert figures == pytest.approx(expected, nan_ok=True)
    missing = {(row["market"], row["fold"], row["variant"], row["error"]) for row in rows[len(keys) :]}
    assert {row["status"] for row in rows[len(keys) :]} == {"n/a"}
    assert missing == {
        *((m, "short", v, "its test period has 3 bars") for m in ("one", "two") for v in variants),
        *((m, "early", "batch", "the variant was chosen by what it did before 2005-01-01") for m in ("one", "two")),
    }
    ok = [i for i in range(len(keys)) if i not in (4, 5)]
    curves, daily = tables.curves.to_dict("records"), tables.daily.to_dict("records")
    assert [key_of(row) for row in curves] == [keys[i] for i in ok for _ in range(2)] == [key_of(row) for row in daily]
    assert [row["step"] for row in curves] == [128.0 * (i + 1) * k for i in ok for k in (1, 2)]
    assert [row["reward"] for row in curves][::2] == ok
    assert [row["return"] for row in daily] == [x for i in ok for x in (i / 100, 0.0)]
    assert daily[1]["date"] == pd.Timestamp("2005-01-04")
    effects = tables.effects.set_index(["market", "variant", "metric"])
    late = [
        (keys[i], keys[j])
        for i in ok
        for j in ok
        if keys[i][2] == "batch" and keys[j] == (*keys[i][:2], "baseline", keys[i][3])
    ]
    assert effects.loc[("all", "batch", "value_loss"), "pairs"] == len(late) > 0


def test_tables_are_written_as_they_are(compared):
    comparison, folds, variants = compared
    tables = tables_of(comparison, folds, variants, "baseline")
    folder = comparison.folder
    write_tables(folder, tables)
    write_report(folder / "report.html", tables, folder.name, "baseline", "seeds: 3-4", facts_of(tables))
    for name in ("cells", "effects", "hopes", "sharpe"):
        written, frame = pd.read_csv(comparison.folder / f"{name}.csv", keep_default_na=False), getattr(tables, name)
        assert list(written) == list(frame)
        assert len(written) == len(frame)
        for column in frame:
            for text, value in zip(written[column].astype(str), frame[column], strict=True):
                if isinstance(value, float) and np.isfinite(value):
                    assert float(text) == pytest.approx(value, rel=1e-5)
                else:
                    assert text == ("" if value is None or value != value else str(value))
    for name in ("cells", "curves", "daily"):
        written, frame = pd.read_parquet(comparison.folder / f"{name}.parquet"), getattr(tables, name)
        pd.testing.assert_frame_equal(written, frame, check_dtype=False)
    report = (comparison.folder / "report.html").read_text()
    assert "<h1>a comparison</h1>" in report
    assert "<b>baseline</b>" in report
    assert re.search(r"seconds of all cells</dt>\s*<dd>57,000</dd>", report)  # 1,000 (0 + ... + 11 - 4 - 5)
    assert "seeds: 3-4" in report


# Several symbols that lack other days: the days and the rules beside a ledger in plain pandas


ALGORITHM = dict(
    policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1, policy_kwargs=dict(n_quantiles=5)
)


FEE = 10.0  # in basis points
FIRST_TEST = "2002-01-01"


@pytest.fixture(scope="module")
def prices(make_prices):
    """A lacks Mondays of even weeks, B those of odd ones, C Tuesdays of even weeks and all days after June 2002."""
    table = {}
    for seed, symbol in enumerate("ABC"):
        frame = make_prices(700, seed)
        day = pd.to_datetime(frame["date"])
        even = day.dt.isocalendar().week % 2 == 0
        lacks = (day.dt.day_of_week == (1 if symbol == "C" else 0)) & (~even if symbol == "B" else even)
        gone = day > ("2002-06-28" if symbol == "C" else "2099-01-01")
        table[symbol] = frame[~lacks & ~gone].assign(symbol=symbol)
    return table


@pytest.fixture(scope="module")
def compared_symbols(prices, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    path = folder / "abc.csv"
    pd.concat(prices.values()).to_csv(path, index=False)
    market = MarketConfig(str(path), trading=TradingCosts(fee_bp=FEE, slippage_bp=0.0), episode_bars=60)
    compare = CompareConfig(first_test=FIRST_TEST, test_years=2, embargo_days=0, seeds="0-1")
    folds = folds_of(compare, market)
    run = RunConfig(total_timesteps=128, n_envs=2)
    variants = {"baseline": {}}
    cells = cells_of(compare, run, {"baseline": ALGORITHM}, variants, folds)
    comparison = Comparison(folder, cells)
    for i, cell in enumerate(cells):  # in this process, as starting another takes seconds
        comparison.paths[i].write_text(json.dumps({"status": "ok", **run_cell(cell)}))
    tables = tables_of(comparison, folds, variants, "baseline", [])
    write_tables(folder, tables)
    write_report(folder / "report.html", tables, "title", "baseline", "", {})
    return folder, tables, comparison


def bought_once(prices):
    """A third in each symbol, filled at the first open of the test period, and held: growth per union day."""
    days = pd.DatetimeIndex(sorted(set().union(*(pd.to_datetime(frame["date"]) for frame in prices.values()))))
    days = days[days >= FIRST_TEST]
    values = []
    for frame in prices.values():
        close = frame.set_index(pd.to_datetime(frame["date"]))["close"]
        opens = frame.set_index(pd.to_datetime(frame["date"]))["open"]
        inside = close[close.index >= FIRST_TEST]

        # Equity after the fee f of buying shares for all of it: e * 1 = e * (w + f w), paid at the open.
        paid = 1 - FEE / 1e4
        value = paid * inside / opens[inside.index[0]]
        values.append(value.reindex(days).ffill().fillna(1.0) / len(prices))
    equity = sum(values)
    return equity / equity.shift(fill_value=1.0) - 1


def test_hold_of_the_days_is_bought_once_on_the_union_of_days(compared_symbols, prices):
    _, tables, _ = compared_symbols
    days = tables.daily[tables.daily["seed"] == 0].set_index("date")
    expected = bought_once(prices)
    assert list(pd.to_datetime(days.index)) == list(expected.index)
    assert days["hold"].to_numpy() == pytest.approx(expected.to_numpy(), abs=2e-5)


def test_equal_weights_stand_in_the_table_and_the_report(compared_symbols):
    folder, tables, _ = compared_symbols
    (row,) = tables.sharpe.to_dict("records")
    daily = tables.daily[tables.daily["seed"] == 0]["equal"]
    per_year = tables.cells["bars_per_year"].iloc[0]
    assert row["equal"] == pytest.approx(daily.mean() / daily.std() * np.sqrt(per_year))
    assert tables.cells["equal_sharpe"].tolist() == pytest.approx([row["equal"]] * 2, abs=1e-4)
    assert "equal weights" in (folder / "report.html").read_text()
    assert "equal" in pd.read_csv(folder / "sharpe.csv")


def test_the_seeds_together_are_the_mean_of_their_days(compared_symbols):
    _, tables, comparison = compared_symbols
    by_seed = [comparison.result(i)["daily"]["return"] for i in range(2)]
    together = pd.Series(np.mean(by_seed, axis=0))
    per_year = tables.cells["bars_per_year"].iloc[0]
    expected = together.mean() / together.std() * np.sqrt(per_year)
    assert tables.sharpe["sharpe_seeds_together"].iloc[0] == pytest.approx(expected, rel=1e-5)
    assert tables.sharpe["years"].iloc[0] == pytest.approx(len(together) / per_year)
