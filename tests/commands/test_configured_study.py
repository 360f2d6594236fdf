"""From a configuration to a run: what is said of its data, and what is refused."""

import json

import pytest
from builders import QUICK_FLAGS, refused

from market_regimes import MarketConfig, RunConfig, Study, TradingCosts
from train_model_multi_patch import main

SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.mark.parametrize("names", ["b", "ab"])
def test_a_fill_at_the_open_that_is_stated_is_refused_on_closes(files, names, capsys):
    """From the command line, from a file, of every command that reads data, and from Python."""
    entries = [str(files / f"{name}.csv") for name in names]
    (files / "mine.yaml").write_text("market: {trading: {fill: next_open}}\n")
    data = f"--market.data=[{','.join(entries)}]"
    expected = f"market.trading.fill=next_open: {files / 'b.csv'} has no opening prices of b"

    for arguments in (
        ["train", data, "--market.trading.fill=next_open"],
        ["train", data, f"--config={files / 'mine.yaml'}"],
        ["sanity", data, "--market.trading.fill=next_open"],
        ["data", *entries, "--market.trading.fill=next_open"],
        ["compare", data, "--market.trading.fill=next_open", "--compare.first_test=2001-03-01"],
    ):
        assert expected in refused(capsys, *arguments)

    with pytest.raises(ValueError, match="no opening prices of b"):
        Study(RunConfig(), MarketConfig(entries, trading=TradingCosts(fill="next_open")), SMALL)


def test_a_training_period_shorter_than_an_episode_is_said(files, capsys):
    """240 of 400 bars train; 20 returns come before the first decision, so an episode has 219."""
    main([*QUICK_FLAGS, "--market.episode_bars=500", f"--market.data={files / 'a.csv'}", f"--run.out={files}"])
    said = capsys.readouterr().out
    bars = json.loads((next(files.glob("market-*")) / "run.json").read_text())["data"]["a"]["bars"]

    assert bars == 400
    assert "a: episodes of 219 bars, all of training, not market.episode_bars=500\n" in said
