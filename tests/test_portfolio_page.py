"""The page on portfolios: its four commands go from twenty files to an order list within the limits that they state."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from train_model_multi_patch import main

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/portfolio.md").read_text("utf-8")
PROGRAM = "python train_model_multi_patch.py "
SYMBOLS = ["AAPL", "MSFT", "JPM", *(f"S{k:02d}" for k in range(17))]

# What makes the training short.
QUICK = [
    *("--run.total_timesteps=2048", "--run.n_envs=8", "--run.eval_every=1024", "--run.progress_bar=false"),
    *("--algorithm.n_steps=128", "--algorithm.batch_size=256", "--algorithm.n_epochs=4"),
    *("--algorithm.learning_rate=0.01", "--algorithm.seed=0"),
]


def commands():
    """Arguments of the four commands of the page, by their names."""
    block = re.search(r"```bash\n(.*?)```", PAGE, re.DOTALL).group(1)
    lines = [shlex.split(line.removeprefix(PROGRAM)) for line in block.splitlines()]
    return {arguments[0]: arguments for arguments in lines}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``prices`` has a rising file of each symbol; ``held.csv`` has more of one than a name or its group may be."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "prices").mkdir()
    for seed, symbol in enumerate(SYMBOLS):
        rng = np.random.default_rng(seed)
        close = 100 * np.exp(np.cumsum(rng.normal(0.002, 0.01, 600)))
        opens = close * np.exp(rng.normal(0, 0.002, 600))
        table = pd.DataFrame(
            {
                "date": pd.bdate_range("2015-01-01", periods=600),
                "open": opens,
                "high": np.maximum(opens, close) * 1.001,
                "low": np.minimum(opens, close) * 0.999,
                "close": close,
            }
        )
        table.to_csv(folder / "prices" / f"{symbol}.csv", index=False)
    (folder / "held.csv").write_text("symbol,shares\nAAPL,100\nS03,20\n", "utf-8")
    return folder


def test_four_commands_go_from_twenty_files_to_orders_within_the_limits(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    lines = commands()
    assert list(lines) == ["data", "train", "evaluate", "signal"]

    main(lines["data"])
    main([*lines["train"], *QUICK])
    assert "market.portfolio.groups: 17 of 20 symbols have no group: S00" in capsys.readouterr().out
    main(lines["evaluate"])
    assert "20 symbols in one account with shared cash" in capsys.readouterr().out
    main(lines["signal"])
    printed = capsys.readouterr().out
    main([*lines["signal"], "--json"])
    answer = json.loads(capsys.readouterr().out)

    # A row for each file, in whole shares.
    orders = pd.DataFrame(answer["orders"]).set_index("symbol")
    assert sorted(orders.index) == sorted(SYMBOLS)
    assert (orders["order"] % 1 == 0).all()
    assert orders.loc["AAPL", "held"] == 100
    assert (orders["held"] + orders["order"]).tolist() == orders["shares"].tolist()
    assert orders["order"].abs().sum() > 0

    # The limits of the command, in plain sums of what is left after the costs.
    value = orders["shares"] * orders["price"]
    left = 100_000 - answer["cost"]
    assert value.min() >= 0
    assert value.max() <= 0.1 * left * (1 + 1e-9)
    assert value[["AAPL", "MSFT"]].sum() <= 0.05 * left * (1 + 1e-9)
    assert value["JPM"] <= 0.05 * left * (1 + 1e-9)
    assert value.sum() <= left * (1 + 1e-9)

    # Sums: costs are 1 bp of what is traded, and the cash is the rest.
    assert answer["equity"] == 100_000
    assert answer["cost"] == pytest.approx(1e-4 * orders["value"].abs().sum())
    assert answer["bought"] - answer["sold"] == pytest.approx(orders["value"].sum())
    assert answer["cash"] == pytest.approx(100_000 - (orders["held"] * orders["price"]).sum())
    assert answer["cash_after"] == pytest.approx(left - value.sum())
    assert answer["cash_after"] >= 0

    # The page's own words on what is printed.
    assert f"after the orders {answer['cash_after']:.2f}" in printed
    assert f"limits that cut: {', '.join(answer['limits'])}" in printed
    assert {"weight", "group"} <= set(answer["limits"])


def test_an_evaluation_and_orders_of_some_of_the_files_keep_the_groups(folder, monkeypatch, capsys):
    """The run of the page, asked for three of its twenty files: JPM has its cap, though the others are missing."""
    monkeypatch.chdir(folder)
    if not (folder / "runs" / "mine").exists():
        main([*commands()["train"], *QUICK])
    files = [f"prices/{symbol}.csv" for symbol in ("JPM", "S01", "S02")]

    main(["evaluate", "runs/mine", "--data", *files])
    assert "2 of 3 symbols have no group: S01, S02" in capsys.readouterr().out
    main(["signal", "runs/mine", "--data", *files, "--equity", "100000", "--json"])
    orders = {row["symbol"]: row for row in json.loads(capsys.readouterr().out)["orders"]}

    assert 0 <= orders["JPM"]["target"] <= 0.05 + 1e-9
    assert orders["S01"]["target"] <= 0.1 + 1e-9
