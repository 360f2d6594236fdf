"""The command ``signal``: what it prints for a reader, and what it refuses."""

import json

import pytest
from builders import RUN_OF_PRICES

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
