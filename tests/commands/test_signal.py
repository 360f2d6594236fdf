"""The command ``signal`` with an account: orders in shares and currency, by a run whose symbols share their cash."""

import json

import pandas as pd
import pytest
import yaml
from builders import QUICK_FLAGS, refused

from train_model_multi_patch import main

SHARED = ["--market.portfolio.cash=shared", "--market.portfolio.gross=0.8", "--market.portfolio.weight_max=0.5"]


@pytest.fixture
def run(files, capsys):
    """A run on two files whose cash is shared; what it printed can be read."""
    data = f"--market.data=[{files / 'a.csv'}, {files / 'b.csv'}]"
    main([*QUICK_FLAGS, data, f"--run.out={files}", "--run.name=run", *SHARED])
    return files / "run"


def test_a_run_of_shared_cash_gives_its_orders(run, files, capsys):
    printed = capsys.readouterr().out
    assert "2 symbols in one account with shared cash" in printed
    assert "growth_per_year" in printed
    assert yaml.safe_load((run / "config.yaml").read_text())["market"]["portfolio"]["gross"] == 0.8
    for name in ("account-test.csv", "weights-test.png"):
        assert name in printed
        assert (run / name).exists()

    # In shares and currency, as text and as JSON.
    symbols = pd.read_csv(run / "positions-test.csv")["symbol"].unique()
    held = files / "held.csv"
    held.write_text(f"symbol,shares\n{symbols[0]},10\n")
    command = ["signal", str(run), "--equity", "100000", "--positions", str(held), "--lots", "1"]
    main(command)
    assert "after the orders" in capsys.readouterr().out

    main([*command, "--json"])
    orders = json.loads(capsys.readouterr().out)
    assert [row["symbol"] for row in orders["orders"]] == list(symbols)
    assert orders["orders"][0]["held"] == 10
    worth = sum(row["shares"] * row["price"] for row in orders["orders"])
    assert worth + orders["cash_after"] + orders["cost"] == pytest.approx(100_000)

    # What belongs together is asked for, and what cannot be priced is refused.
    assert "--equity" in refused(capsys, "signal", run, "--positions", held)
    assert "--equity" in refused(capsys, "signal", run, "--lots", "1")
    assert "--positions FILE" in refused(capsys, "signal", run, "--equity", "1e5", "--position", "0.5")
    held.write_text("symbol,shares\nZZZ,10\n")
    assert "ZZZ is held" in refused(capsys, "signal", run, "--equity", "1e5", "--positions", held)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--market.portfolio.gross=0.5"], "market.portfolio.gross needs market.portfolio.cash=shared"),
        (["--market.portfolio.cash=shared", "--market.portfolio.gros=1"], "market.portfolio.gross"),
        (["--market.portfolio.cash=both"], "market.portfolio.cash"),
        (["--market.portfolio.cash=shared", "--market.portfolio.top_k=0"], "top_k must be at least 1"),
        (
            [
                "--market.portfolio.cash=shared",
                "--market.portfolio.groups={Z: x}",
                "--market.portfolio.group_max={x: 1}",
            ],
            "market.portfolio.groups names Z",
        ),
    ],
)
def test_keys_that_are_unknown_wrong_or_without_effect_are_refused(files, capsys, flags, words):
    data = f"--market.data=[{files / 'a.csv'}, {files / 'b.csv'}]"
    assert words in refused(capsys, *QUICK_FLAGS, data, f"--run.out={files}", "--run.name=run", *flags)
