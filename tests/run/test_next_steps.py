"""What an evaluation prints as the next command, called as it stands, gives what the evaluation decided."""

import json
import shlex

import pandas as pd
import pytest

from train_model_multi_patch import main

QUICK = ["--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"]
QUICK += ["--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"]
RECURRENT = ["--algorithm.policy=MlpLstmPolicy", "--algorithm.policy_kwargs.lstm_hidden_size=8"]


def next_signal(shown, data):
    """The arguments of the signal that is proposed, with the file in place of FILE."""
    (line,) = (line for line in shown.splitlines() if " signal " in line and " --data FILE" in line)
    return shlex.split(line.split(" signal ")[1].replace("FILE", str(data)))


@pytest.mark.parametrize("flags", [RECURRENT, []])
@pytest.mark.parametrize("seeds", [[], ["--seeds=0,1"]])
def test_the_next_signal_decides_what_the_evaluation_decided(tmp_path, make_prices, capsys, flags, seeds):
    prices = make_prices(400)
    prices.to_csv(tmp_path / "p.csv", index=False)
    main([*QUICK, *flags, *seeds, f"--market.data={tmp_path / 'p.csv'}", f"--run.out={tmp_path}", "--run.name=x"])
    folder = tmp_path / "x"
    shown = {"test": capsys.readouterr().out}
    for name, arguments in (
        ("test", []),
        ("validation", ["--period=validation"]),
        ("p-2001-02-01-to-2001-05-31", ["--data", str(tmp_path / "p.csv"), "--from=2001-02-01", "--to=2001-05-31"]),
    ):
        main(["evaluate", str(folder), *arguments])
        shown[name] = capsys.readouterr().out
        assert (" --from 200" in shown[name]) == bool(flags)
        one = folder / "seed-0" if seeds else folder
        decided = pd.read_csv(one / f"positions-{name}.csv").iloc[[20, -1]]
        for row in decided.itertuples():
            prices[prices["date"] <= row.date].to_csv(tmp_path / "cut.csv", index=False)
            position = [] if flags else ["--position", repr(row.position)]
            main(["signal", *next_signal(shown[name], tmp_path / "cut.csv"), *position, "--json"])
            (entry,) = json.loads(capsys.readouterr().out)
            assert (entry["date"], entry["target"]) == (row.date, pytest.approx(row.target, rel=1e-12))
            assert entry["position"] == pytest.approx(row.position, rel=1e-12)
