"""The command ``evaluate``: which bars, by which fill, on which device."""

import json
import shutil

import numpy as np
import pytest
import yaml
from builders import QUICK_FLAGS, errors_of, refused, train_with_columns, with_columns

from market_regimes import Agent, Study
from market_regimes.run.algorithm import is_found
from market_regimes.run.folder import read_configuration
from train_model_multi_patch import main


def test_bars_that_cannot_be_filled_as_the_run_fills_say_so(files, capsys):
    main([*QUICK_FLAGS, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    sentence = (
        f"{files / 'b.csv'} has no opening prices: its orders fill at the close, and those of the run at the next open"
    )
    capsys.readouterr()
    main(["evaluate", str(files / "run"), "--data", str(files / "b.csv")])

    assert sentence in capsys.readouterr().out.splitlines()

    (signal,) = Agent.load(files / "run").signal(files / "b.csv")

    assert signal.fill == "close"
    assert sentence in signal.warnings


def test_the_place_of_the_runs_own_data_is_heeded_with_dates_too(files, capsys):
    main([*QUICK_FLAGS, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    shutil.move(files / "a.csv", files / "moved.csv")
    flag = f"--market.data={files / 'moved.csv'}"
    main(["evaluate", str(files / "run"), flag, "--from", "2001-03-01"])

    assert list((files / "run").glob("evaluation-2001-03-01-to-*.json"))

    other = ["--data", str(files / "b.csv")]

    assert "give one of them" in refused(capsys, "evaluate", files / "run", flag, *other)


ABSENT = [device for device in ("cuda", "cuda:1", "mps", "xpu") if not is_found(device)]


def with_device(folder, device):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["algorithm"]["device"] = device
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def test_a_seeds_group_acts_on_the_device_that_is_asked_for(home, capsys):
    main([*QUICK_FLAGS, "--market.data=p.csv", "--run.name=x", "--seeds=0,1", "--algorithm.device=cpu"])
    folder = home / "runs" / "x"

    for each in (folder, folder / "seed-0", folder / "seed-1"):
        with_device(each, ABSENT[0])

    capsys.readouterr()
    main(["evaluate", str(folder)])

    assert capsys.readouterr().err.count("the CPU is used") == 2

    main(["evaluate", str(folder), "--device=cpu"])

    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def run_with_columns(tmp_path_factory, make_prices):
    """A run whose file has columns of the user's own, and the file."""
    return train_with_columns(tmp_path_factory.mktemp("own"), make_prices(600))


def test_evaluate_and_signal_read_the_features_of_other_files(run_with_columns, tmp_path, make_prices, capsys):
    folder, _ = run_with_columns
    other = with_columns(make_prices(600)).assign(other=2.0)
    other.to_csv(tmp_path / "other.csv", index=False)
    main(["evaluate", str(folder), "--data", str(tmp_path / "other.csv"), "--from", "2001-11-01", "--to", "2002-04-19"])
    one, two = (folder / f"positions-{name}.csv" for name in ("test", "other-2001-11-01-to-2002-04-19"))

    assert one.read_text() == two.read_text().replace(",other,", ",prices,")
    assert " has no numbers in mine" not in capsys.readouterr().out

    other.drop(columns="mine").to_csv(tmp_path / "other.csv", index=False)
    main(["evaluate", str(folder), "--data", str(tmp_path / "other.csv"), "--from", "2001-11-01"])

    assert f"\n{tmp_path / 'other.csv'} has no numbers in mine: the own rule is left out\n" in capsys.readouterr().out

    joint = json.loads((folder / "evaluation-other-2001-11-01-to-2002-04-19.json").read_text())["joint"]

    assert "own rule" not in joint
    assert "own rule" in json.loads((folder / "evaluation-test.json").read_text())["joint"]

    main(["signal", str(folder), "--data", str(tmp_path / "other.csv"), "--json", "--observation"])
    (answer,) = json.loads(capsys.readouterr().out)
    scaling = json.loads((folder / "scaling.json").read_text())["prices"]["scaling"]["features"]
    expected = [
        (other["macro"].iloc[-1] - scaling["macro"]["mean"]) / scaling["macro"]["std"],
        (np.log(other["volume"]).diff().iloc[-1] - scaling["volume"]["mean"]) / scaling["volume"]["std"],
    ]

    assert len(answer["observation"]) == 25
    assert answer["observation"][22:24] == pytest.approx(expected, rel=1e-5)

    other.drop(columns="macro").to_csv(tmp_path / "other.csv", index=False)

    for command in ("evaluate", "signal"):
        error = errors_of(capsys, command, folder, "--data", tmp_path / "other.csv")
        assert "other.csv has no column macro, which market.features names: it has date, open" in error


def contents_of(folder):
    """Every file with its time and bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


OF_TEST = {
    *("evaluation-test.json", "positions-test.csv", "trades-test.csv"),
    *("equity-test.png", "returns-test.png"),
}


@pytest.mark.parametrize("earlier", [False, True], ids=["of this version", "of a version without scaling.json"])
def test_reading_a_run_writes_its_results_and_nothing_else(files, earlier):
    main([*QUICK_FLAGS, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    folder = files / "run"
    out = files / "out"
    out.mkdir()
    reading = [(["evaluate", str(folder)], OF_TEST)]
    if earlier:
        (folder / "scaling.json").unlink()
    else:
        named = {name.replace("test", "a-2001-02-01-to-2001-05-31") for name in OF_TEST}
        days = ["--data", str(files / "a.csv"), "--from=2001-02-01", "--to=2001-05-31"]
        reading += [
            (["evaluate", str(folder), *days], named),
            (["signal", str(folder), "--json"], set()),
            (["export", str(folder), f"--out={out / 'agent.onnx'}"], set()),
        ]

    for arguments, written in reading:
        before = contents_of(folder)
        main(arguments)
        after = contents_of(folder)
        assert {name for name in after if after[name] != before.get(name)} == written
        assert before.keys() <= after.keys()


def test_a_run_is_loaded_and_its_folder_stays_as_it_is(files):
    main([*QUICK_FLAGS, f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"])
    folder = files / "run"
    (folder / "scaling.json").rename(files / "scaling.json")
    before = contents_of(folder)
    configured = read_configuration(folder)

    study = Study(configured.run, configured.market, configured.algorithm)
    study.load(folder)

    assert contents_of(folder) == before

    (files / "scaling.json").rename(folder / "scaling.json")
    before = contents_of(folder)
    Agent.load(folder)

    assert contents_of(folder) == before


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_question_has_files_of_its_own_and_leaves_the_run_as_it_is(home, capsys):
    main([*QUICK_FLAGS, "--market.data=p.csv", "--run.name=x"])
    folder = home / "runs" / "x"
    before = contents(folder)
    capsys.readouterr()
    main(["evaluate", str(folder), "--fee=5", "--slippage=2", "--fill=next_close", "--delay=1"])
    output = capsys.readouterr().out
    after = contents(folder)
    name = "test-fee-5-slippage-2-fill-next_close-delay-1"

    assert {file: after[file] for file in before} == before
    assert f"evaluation-{name}.json" in output
    assert output.startswith(
        "asked of the finished run: a fee of 5 bp, slippage of 2 bp, orders filled at the next close"
    )

    answer = json.loads(after[f"evaluation-{name}.json"])
    assert answer["question"] == {"fee": 5.0, "slippage": 2.0, "fill": "next_close", "delay": 1}
    added = {file for file in after if file not in before}
    assert all(f"-{name}." in file for file in added)
    assert {f"positions-{name}.csv", f"trades-{name}.csv", f"equity-{name}.png", f"returns-{name}.png"} <= added

    # On other bars; and what cannot be answered.
    main(["evaluate", str(folder), "--data", "p.csv", "--from=2001-03-01", "--fee=5"])
    assert len(list(folder.glob("evaluation-p-2001-03-01-to-*-fee-5.json"))) == 1
    main(["evaluate", str(folder), "--costs", "0", "5"])
    assert "cost at which its growth falls to that of buy-and-hold:" in capsys.readouterr().out
    assert (folder / "costs-test-costs-0-5.png").exists()
    assert json.loads((folder / "evaluation-test-costs-0-5.json").read_text())["costs"]["costs"] == [0.0, 5.0]
    assert "--costs=-2 must be" in refused(capsys, "evaluate", folder, "--costs", "-2")
    assert "--fee=-1 must be" in refused(capsys, "evaluate", folder, "--fee=-1")
    assert "--delay=9999: p has 100 bars" in refused(capsys, "evaluate", folder, "--delay=9999")
