"""What the terminal shows of a comparison."""

import numpy as np
import pandas as pd

from market_regimes.compare.printing import print_trading, print_verdicts
from market_regimes.compare.tables import Tables


def test_printed_verdicts_are_of_their_hypothesis(capsys):
    columns = ("hope", "variant", "against", "metric", "hoped", "measured", "verdict", "reached", "seeds_needed")
    hopes = [[f"{name} {i}" for name in columns[:-1]] + [needed] for i, needed in enumerate((123.0, np.nan))]
    hopes += [["hope 2", "v", "b", "metric 2", "more", "1 became 2", "n/a", "n/a", np.nan]]
    hopes += [["hope 3", "v", "b", "metric 3", "more", "1 became 2", "better", "reached", 1000.0]]
    rows = [
        ("m", "f", "v", seed, status, f"why {seed}") for seed, status in enumerate(("ok", "n/a", "failed", "missing"))
    ]
    cells = pd.DataFrame(rows, columns=["market", "fold", "variant", "seed", "status", "error"])
    empty = pd.DataFrame()
    print_verdicts(Tables(cells, empty, empty, empty, pd.DataFrame(hopes, columns=columns), empty), "A title")
    assert capsys.readouterr().out.strip().splitlines() == [
        "A title:",
        "- hope 0 (metric 0; hoped: hoped 0)",
        "    variant 0 against against 0: VERDICT 0, measured 0; seeds needed: 123",
        "- hope 1 (metric 1; hoped: hoped 1)",
        "    variant 1 against against 1: VERDICT 1, measured 1; seeds needed: n/a",
        "- hope 2 (metric 2; hoped: more)",
        "    v against b: N/A, 1 became 2; seeds needed: cannot be told, since fewer than 5 seeds have a value",
        "- hope 3 (metric 3; hoped: more)",
        "    v against b: BETTER, 1 became 2; seeds needed: over 1,000",
        "failed: m, f, v, seed 2: why 2",
        "failed: m, f, v, seed 3: why 3",
    ]


def cells_with(**columns):
    """Three cells of a variant."""
    keys = dict(market="synthetic_hidden", fold="f", variant="recommended", seed=range(3), status="ok")
    return pd.DataFrame(keys | dict(test_sharpe=[1.0, 2.0, 4.0], hold_sharpe=0.5) | columns)


def test_growth_stands_beside_the_sharpe_ratio_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_trading(cells_with(test_growth=[0.1, 0.125, 0.3], hold_growth=0.04, test_attained_growth=[0.5, 0.25, 0.75]))

    table = capsys.readouterr().out
    (row,) = [line for line in table.splitlines() if "recommended" in line]
    assert row.split()[2:] == ["2.00", "0.50", "n/a", "12.5", "%", "4.0", "%", "50.0", "%"]
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table


def test_cells_of_an_earlier_version_have_no_growth(capsys):
    print_trading(cells_with())

    (row,) = [line for line in capsys.readouterr().out.splitlines() if "recommended" in line]
    assert row.split()[2:] == ["2.00", "0.50", "n/a", "n/a", "n/a", "n/a"]
