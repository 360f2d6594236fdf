"""Tables, hopes and the committed results, from made-up cells whose truth is known."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from market_regimes.verdicts import HOPES, METRICS, analysed, with_derived


def cells(seeds=6, shift=0.0):
    rng = np.random.default_rng(0)
    rows = []
    for market in ("one", "two"):
        for fold in ("early", "late"):
            for seed in range(seeds):
                base = rng.normal(1.0, 0.02)
                rows += [
                    dict(
                        market=market,
                        fold=fold,
                        seed=seed,
                        variant=variant,
                        status="ok",
                        error=None,
                        bars_per_year=252.0,
                        value_loss_spread=base * factor + rng.normal(0, 0.01),
                        test_sharpe=base + shift,
                        grad_ratio_stormy=ratio,
                        spread_calm=0.9,
                    )
                    for variant, factor, ratio in (("baseline", 1.0, 4.0), ("batch", 0.6, 0.25), ("control", 0.6, 4.0))
                ]
    return pd.DataFrame(rows)


def days(table):
    rng = np.random.default_rng(1)
    dates = pd.date_range("2001-01-01", periods=60)
    keys = table[["market", "fold", "variant", "seed"]].to_dict("records")
    return pd.concat(
        pd.DataFrame(
            dict(
                date=dates,
                **{"return": rng.normal(0, 0.01, 60)},
                position=1.0,
                index=20.0,
                hold=0.001 * (np.arange(60) % 3),
            )
        ).assign(**key)
        for key in keys
    )


def test_distances_from_the_ideal():
    derived = with_derived(cells())
    assert derived["grad_imbalance_stormy"].round(6).unique().tolist() == [round(np.log(4), 6)]  # 4 and 1/4 are as far
    assert derived["spread_error_calm"].round(6).unique().tolist() == [0.1]


def test_what_is_lower_by_construction_is_better_and_reaches_the_hope():
    table = with_derived(cells())
    tables = analysed(table, pd.DataFrame(), days(table), "baseline")
    effects = tables.effects.set_index(["market", "variant", "metric"])
    assert list(dict.fromkeys(tables.effects["market"])) == ["all", "one", "two"]
    spread = effects.loc[("all", "batch", "value_loss_spread")]
    assert (spread["verdict"], spread["pairs"]) == ("better", 24)
    assert abs(spread["relative"] + 0.4) < 0.02
    assert effects.loc[("one", "batch", "test_sharpe"), "verdict"] == "no difference shown"
    hopes = tables.hopes.set_index(["metric", "against"])
    assert hopes.loc[("value-loss spread", "baseline"), "reached"] == "reached"
    assert hopes.loc[("value-loss spread", "control"), "verdict"] == "no difference shown"
    assert set(tables.sharpe["variant"]) == {"baseline", "batch", "control"}
    assert tables.sharpe["deflated"].between(0, 1).all()


def test_failed_cells_are_left_out_and_nothing_at_all_is_no_error():
    table = with_derived(cells())
    table.loc[table["variant"] == "batch", "status"] = "failed"
    tables = analysed(table, pd.DataFrame(), pd.DataFrame(columns=["date"]), "baseline")
    batch = tables.effects[tables.effects["variant"] == "batch"]
    assert (batch["verdict"] == "n/a").all()
    table["status"] = "failed"
    assert (analysed(table, pd.DataFrame(), pd.DataFrame(columns=["date"]), "baseline").effects["pairs"] == 0).all()


def test_every_hope_is_about_a_metric():
    assert all(hope.metric in METRICS for hope in HOPES)
    # The direction hoped for is the better one.
    assert all((hope.hoped[1] > hope.hoped[0]) == METRICS[hope.metric].higher_is_better for hope in HOPES)


def test_the_tables_of_results_are_those_of_the_committed_cells(monkeypatch):
    root = Path(__file__).parent.parent
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import results

    page = (root / "RESULTS.md").read_text()
    assert results.with_tables(page, results.tables()) == page
    cells = pd.read_csv(results.CELLS)
    assert (cells["status"] == "ok").sum() == 1140
    assert sys.modules.pop("results")
