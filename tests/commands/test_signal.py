"""The command ``signal``: what it prints for a reader, and what it refuses."""

import json

import pandas as pd
import pytest
import yaml
from builders import QUICK_FLAGS, RUN_OF_PRICES, refused

from train_model_multi_patch import main


def answer(capsys, *arguments):
    capsys.readouterr()
    main(["signal", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert shown.err == ""
    return json.loads(shown.out)


def test_the_terminal_shows_all_that_json_has(run_of_prices, capsys):
    folder, data = run_of_prices
    entry = answer(capsys, folder)[0]  # the run's own file
    main(["signal", str(folder), "--data", str(data), "--observation"])
    shown = capsys.readouterr().out
    assert f"{folder}, step 256, on {data}: decided at the last close, filled at the next open" in shown
    numbers = [entry["position"], entry["target"], entry["trade"]]
    for text in (entry["symbol"], entry["date"], entry["regime"], *(f"{number:.4f}" for number in numbers)):
        assert text in shown
    for value in (*entry["quantiles"].values(), entry["cvar"]):
        assert f"{value:+.2f}" in shown
    assert len(shown.split("prices observes: ")[1].splitlines()[0].split()) == 23
    assert entry["warnings"][0].startswith("the bars end on 2002-04-19")
    assert f"warning: prices: {entry['warnings'][0]}" in shown
    assert "position held: 0, as --position does not give it" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "nowhere.csv"], "there is no file nowhere.csv"),
        (["--position", "half"], "--position is a share of equity like 0.5"),
        (["--position", "AAPL=0.5"], "the bars are of prices"),
        (["--like", "AAPL"], "like=AAPL is none of the symbols that the run was trained on: prices"),
        (["--checkpoint", "first"], "best or last"),
        (["--from", "2030-01-01"], "2002-04-19"),
        (["--from", "today"], "two ISO dates"),
        (["--dat", "prices.csv"], "Did you mean data?"),
    ],
)
def test_wrong_commands_are_refused_in_one_sentence(run_of_prices, arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["signal", str(run_of_prices[0]), *arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1


def test_a_run_elsewhere_than_on_a_market_has_no_signal(tmp_path, capsys):
    main([*RUN_OF_PRICES, "--run.env_id=CartPole-v1", f"--run.out={tmp_path}", "--run.name=cart"])
    assert "\nMean return " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["signal", str(tmp_path / "cart")])
    assert "was not trained on market data" in capsys.readouterr().err


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
