"""What goes on in its folder, from any other folder. Oracle: the absolute path that the standard library gives."""

import json

import pytest
import yaml
from builders import QUICK_FLAGS, errors_of, refused, train_with_columns, with_columns

from market_regimes import Agent
from train_model_multi_patch import main


def recorded(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    fills = {name: entry["fill"] for name, entry in json.loads((folder / "run.json").read_text())["data"].items()}
    return config["market"]["trading"]["fill"], fills


def test_a_run_of_closes_that_recorded_the_open_goes_on_as_it_was(files, capsys):
    """Earlier versions wrote the default into config.yaml, and filled at the close."""
    main([*QUICK_FLAGS, f"--market.data={files / 'b.csv'}", f"--run.out={files}", "--run.name=run"])
    before = (files / "run" / "positions-test.csv").read_bytes()
    config = yaml.safe_load((files / "run" / "config.yaml").read_text())
    config["market"]["trading"]["fill"] = "next_open"
    (files / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    main(["evaluate", str(files / "run")])

    assert (files / "run" / "positions-test.csv").read_bytes() == before

    (signal,) = Agent.load(files / "run").signal(files / "b.csv")

    assert signal.fill == "close"
    assert "may become longer" not in refused(capsys, "--resume", files / "run", "--market.trading.fill=close")

    main(["--resume", str(files / "run"), "--run.total_timesteps=128"])

    assert recorded(files / "run")[0] == "close"


def data_of(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["market"]["data"]


@pytest.mark.parametrize(
    ("first", "moved", "expected", "seeds"),
    [
        ("p.csv", "p.csv", "p.csv", False),
        ("p.csv", "./both/../p.csv", "p.csv", True),
        ("p.csv", "~/p.csv", "p.csv", False),
        ("both", "both", "both", False),
        ("both", "[both/A.csv,~/both/B.csv]", ["both/A.csv", "both/B.csv"], False),
    ],
)
def test_a_resumed_run_finds_its_data_from_anywhere(home, monkeypatch, first, moved, expected, seeds):
    folder = home / "runs" / "x"
    main([*QUICK_FLAGS, f"--market.data={first}", "--run.name=x", *(["--seeds=0,1"] if seeds else [])])
    main(["--resume", "runs/x", f"--market.data={moved}"])
    absolute = [str(home / name) for name in expected] if isinstance(expected, list) else str(home / expected)

    for each in [folder, *folder.glob("seed-*")]:
        assert data_of(each) == absolute

    monkeypatch.chdir(home / "elsewhere")
    main(["evaluate", str(folder)])
    one = folder / "seed-1" if seeds else folder
    main(["signal", str(one), "--json"])
    main(["--resume", str(folder), "--run.total_timesteps=128"])

    assert data_of(folder) == absolute


@pytest.mark.usefixtures("no_export")
def test_the_users_home_is_meant_in_every_path(home, monkeypatch, capsys):
    main([*QUICK_FLAGS, "--market.data=~/p.csv", "--run.out=~/runs", "--run.name=x"])

    assert (home / "runs" / "x" / "run.json").exists()

    monkeypatch.chdir(home / "elsewhere")

    for arguments in (
        ["evaluate", "~/runs/x"],
        ["evaluate", "~/runs/x", "--market.data=~/p.csv"],
        ["signal", "~/runs/x", "--data=~/p.csv"],
        ["--resume=~/runs/x", "--run.total_timesteps=128"],
        ["data", "~/both"],
    ):
        main(arguments)

    assert not (home / "elsewhere" / "~").exists()

    agent = Agent.load("~/runs/x")

    assert agent.signal("~/p.csv")[0].symbol == "p"
    assert agent.export("~/agent.onnx") == home / "agent.json"


@pytest.mark.parametrize("command", ["sanity", "compare"])
def test_other_commands_keep_absolute_paths_too(home, here, command):
    few = [*QUICK_FLAGS[1:], "--market.data=p.csv", "--run.name=x"]
    if command == "compare":
        few += [QUICK_FLAGS[0], "--compare.first_test=2001-03-01", "--compare.seeds=0", "--compare.markets=[p.csv]"]
        few += ["--variants={baseline: {}}", "--compare.last_test=null", "--compare.workers=1"]
        main([command, *few])
        config = yaml.safe_load((home / "runs" / "x" / "config.yaml").read_text())
        assert config["compare"]["markets"] == [str(home / "p.csv")]
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("market_regimes.run.sanity.SANITY_STEPS", 64)
            patch.setattr("market_regimes.run.sanity.print_checks", lambda *args: True)
            main([command, *few])

    assert data_of(home / "runs" / "x") == str(home / "p.csv")


@pytest.fixture
def no_export(monkeypatch):
    """What an export writes takes seconds, and says nothing of devices."""
    monkeypatch.setattr("market_regimes.run.agent.export_onnx", lambda *arguments: arguments[-1].with_suffix(".json"))


@pytest.fixture(scope="module")
def run_with_columns(tmp_path_factory, make_prices):
    """A run whose file has columns of the user's own, and the file."""
    return train_with_columns(tmp_path_factory.mktemp("own"), make_prices(600))


def test_a_run_is_resumed_unless_a_feature_changed(run_with_columns, tmp_path, make_prices, capsys):
    folder, _ = run_with_columns
    changed = with_columns(make_prices(600))
    changed["other"] = 5.0
    changed.to_csv(tmp_path / "prices.csv", index=False)
    main(["train", "--resume", str(folder), f"--market.data={tmp_path / 'prices.csv'}"])
    shown = capsys.readouterr().out

    assert "observed besides prices: macro, volume (log change); known at the close of their row\n" in shown
    assert "own rule: targets of mine, each known at the close of its row\n" in shown

    changed.loc[100, "macro"] = 1.5
    changed.to_csv(tmp_path / "prices.csv", index=False)
    error = errors_of(capsys, "train", "--resume", folder, f"--market.data={tmp_path / 'prices.csv'}")

    assert "bars of prices changed in 2000-05;" in error
    assert "was started with market.features=" in errors_of(
        capsys, "train", "--resume", folder, "--market.features=[macro]"
    )
