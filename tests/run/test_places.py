"""
A run is used from other folders, on other machines, and after its account is ruined. Oracles: the absolute path that
the standard library gives, the positions of the evaluation on the same bars.
"""

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.run.algorithm import is_found
from market_regimes.run.checkpoint import newest_first, read, write
from market_regimes.run.folder import acting_device
from train_model_multi_patch import main

QUICK = ["--run.total_timesteps=64", "--run.n_envs=2", "--run.eval_every=64", "--run.progress_bar=false"]
QUICK += ["--algorithm.n_steps=32", "--algorithm.batch_size=64", "--algorithm.n_epochs=1", "--market.episode_bars=60"]
SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.fixture
def home(tmp_path, make_prices, monkeypatch):
    """The working folder and the user's home, with a file and a folder of files."""
    make_prices(400).to_csv(tmp_path / "p.csv", index=False)
    (tmp_path / "both").mkdir()
    for i, name in enumerate("AB"):
        make_prices(400, seed=i).to_csv(tmp_path / "both" / f"{name}.csv", index=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


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
    main([*QUICK, f"--market.data={first}", "--run.name=x", *(["--seeds=0,1"] if seeds else [])])
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
    main([*QUICK, "--market.data=~/p.csv", "--run.out=~/runs", "--run.name=x"])
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
def test_other_commands_keep_absolute_paths_too(home, command):
    few = [*QUICK[1:], "--market.data=p.csv", "--run.name=x"]
    if command == "compare":
        few += [QUICK[0], "--compare.first_test=2001-03-01", "--compare.seeds=0", "--compare.markets=[p.csv]"]
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


RUINOUS = TradingCosts(position_low=5.0, position_high=5.5)


@pytest.fixture(scope="module")
def leveraged(tmp_path_factory, make_prices):
    """Runs whose agents always hold 5 or more, and prices that fall by a quarter on their 300th bar."""
    place = tmp_path_factory.mktemp("ruin")
    prices = make_prices(400)
    prices.to_csv(place / "p.csv", index=False)
    folders = {}
    for policy, keys in (("MlpPolicy", {}), ("MlpLstmPolicy", {"policy_kwargs": {"lstm_hidden_size": 8}})):
        run = RunConfig(total_timesteps=32, n_envs=2, out=str(place), name=policy, progress_bar=False)
        market = MarketConfig(str(place / "p.csv"), trading=RUINOUS)
        folders[policy] = Study(run, market, {**SMALL, "policy": policy, **keys}).start()
    fallen = prices.copy()
    fallen.loc[300:, ["open", "high", "low", "close"]] *= 0.75
    return folders, fallen


@pytest.mark.parametrize("policy", ["MlpPolicy", "MlpLstmPolicy"])
@pytest.mark.parametrize("bars", [300, 301, 302, 350, 400])
def test_a_signal_that_is_played_holds_what_the_evaluation_holds_after_ruin(leveraged, policy, bars):
    folders, prices = leveraged
    agent, cut = Agent.load(folders[policy]), prices.iloc[:bars]
    first = "2000-12-01"
    frame = agent.backtest(prices, first)["p"]
    now = datetime(2030, 1, 1)
    (signal,) = agent.signal(cut, first=first, now=now)
    ruined = bars > 300
    if ruined:
        assert (signal.position, signal.target, signal.trade) == (0.0, 0.0, 0.0)
        assert (frame.loc[prices["date"][301] :, "position"] == 0).all()
    else:
        row = frame.loc[prices["date"][bars - 1]]
        assert signal.position == row["position"] > 4
        assert signal.target >= 5
    day = str(prices["date"][300].date())
    said = [sentence for sentence in signal.warnings if "is ruined on" in sentence]
    assert said == (
        [f"the account that is played from {first} on is ruined on {day}: it holds nothing after that"] * ruined
    )

    # A position that is given is that of another account.
    (given,) = agent.signal(cut, position=5.0, first=first, now=now)
    assert (given.position, given.target >= 5) == (5.0, True)


def test_symbols_are_ruined_each_by_itself(tmp_path, make_prices):
    tables = [make_prices(400, seed=i).assign(symbol=name) for i, name in enumerate("AB")]
    pd.concat(tables).to_csv(tmp_path / "p.csv", index=False)
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(tmp_path), name="run", progress_bar=False)
    folder = Study(run, MarketConfig(str(tmp_path / "p.csv"), trading=RUINOUS), SMALL).start()
    tables[0].loc[300:, ["open", "high", "low", "close"]] *= 0.75
    agent, prices = Agent.load(folder), pd.concat(tables)
    one, two = agent.signal(prices, first="2001-02-01")
    frames = agent.backtest(prices, "2001-02-01")
    assert (one.position, two.position) == (frames["A"]["position"].iloc[-1], frames["B"]["position"].iloc[-1])
    assert one.target == 0 < two.target
    assert two.position > 0


ABSENT = [device for device in ("cuda", "cuda:1", "mps", "xpu") if not is_found(device)]


def with_device(folder, device):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["algorithm"]["device"] = device
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def no_export(monkeypatch):
    """What an export writes takes seconds, and says nothing of devices."""
    monkeypatch.setattr("market_regimes.run.agent.export_onnx", lambda *arguments: arguments[-1].with_suffix(".json"))


@pytest.mark.parametrize("device", ABSENT[:1])
@pytest.mark.usefixtures("no_export")
def test_a_run_of_a_device_that_is_not_here_acts_on_the_cpu(home, device, capsys, monkeypatch):
    main([*QUICK, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
    folder = home / "runs" / "x"
    assert json.loads((folder / "run.json").read_text())["device"] == "cpu"
    before = Agent.load(folder).signal("p.csv")
    with_device(folder, device)
    sentence = f"was trained on {device}, which torch does not find here: the CPU is used"
    capsys.readouterr()
    for arguments in (
        ["signal", str(folder), "--data", "p.csv"],
        ["evaluate", str(folder)],
        ["evaluate", str(folder), "--data", "p.csv"],
        ["export", str(folder)],
    ):
        main(arguments)
        assert sentence in capsys.readouterr().err
        main([*arguments, "--device=cpu"])
        assert "torch does not find" not in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main([*arguments, f"--device={device}"])
        assert f"--device={device}: torch finds no such device here" in capsys.readouterr().err
    agent = Agent.load(folder)
    assert agent.model.device.type == "cpu"
    assert agent.signal("p.csv")[0].target == before[0].target
    with pytest.raises(ValueError, match=f"device={device}: torch finds no such device here"):
        Agent.load(folder, device=device)

    # What is trained there goes on there, unless the user says otherwise.
    with pytest.raises(SystemExit):
        main(["--resume", str(folder), "--run.total_timesteps=128"])
    assert f"algorithm.device={device}: torch finds no such GPU here" in capsys.readouterr().err
    main(["--resume", str(folder), "--run.total_timesteps=128", "--algorithm.device=cpu"])
    assert newest_first(folder)[0].name == f"{128:012d}"


@pytest.mark.parametrize("device", ABSENT[:1])
def test_a_run_that_chose_a_device_by_itself_says_where_it_was_trained(home, device, capsys):
    main([*QUICK, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
    folder = home / "runs" / "x"
    with_device(folder, "auto")
    content = json.loads((folder / "run.json").read_text())
    for recorded, said in ((device, True), ("cpu", False), (None, False)):
        (folder / "run.json").write_text(json.dumps({**content, "device": recorded}))
        capsys.readouterr()
        Agent.load(folder)
        assert ("torch does not find here" in capsys.readouterr().err) == said


@pytest.mark.parametrize("device", ABSENT)
def test_every_device_that_is_not_here_is_the_cpu(tmp_path, device, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert acting_device(tmp_path, device) == "cpu"
    assert f"{tmp_path} was trained on {device}, which torch does not find" in capsys.readouterr().err
    assert [acting_device(tmp_path, stated) for stated in ("cpu", "auto", None)] == ["cpu", "auto", "auto"]
    assert acting_device(tmp_path, device, "cpu") == "cpu"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "tpu9", ""])
def test_what_is_no_device_is_refused(home, name):
    assert not is_found(name)
    with pytest.raises(ValueError, match=r"algorithm.device"):
        Study(RunConfig(), MarketConfig("p.csv"), {**SMALL, "device": name})


def test_a_seeds_group_acts_on_the_device_that_is_asked_for(home, capsys):
    main([*QUICK, "--market.data=p.csv", "--run.name=x", "--seeds=0,1", "--algorithm.device=cpu"])
    folder = home / "runs" / "x"
    for each in (folder, folder / "seed-0", folder / "seed-1"):
        with_device(each, ABSENT[0])
    capsys.readouterr()
    main(["evaluate", str(folder)])
    assert capsys.readouterr().err.count("the CPU is used") == 2
    main(["evaluate", str(folder), "--device=cpu"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("prices", "got"),
    [
        (pd.Series([0.264, 0.3]), 'Series, of which to_frame\\("close"\\) makes a frame of closes'),
        (np.ones((100, 4)), "ndarray"),
        ({"A": pd.DataFrame()}, "dict"),
        ([pd.DataFrame()], "list"),
        ([0.264], "list"),
        (["p.csv", 3], "list"),
        ([], "list"),
        (None, "NoneType"),
        (0.264, "float"),
        (b"p.csv", "bytes"),
    ],
)
def test_prices_of_another_kind_are_refused_in_the_words_of_python(home, prices, got):
    run = RunConfig(total_timesteps=32, n_envs=2, out=str(home), name="run", progress_bar=False)
    agent = Agent.load(Study(run, MarketConfig("p.csv"), SMALL).start())
    for method in (agent.signal, agent.backtest):
        with pytest.raises(ValueError, match=f"^prices must be a pandas frame, a file, .* got {got}$"):
            method(prices)


def test_each_caller_reads_the_names_that_it_gave(home, capsys):
    """Of Python its arguments, of the command line its flags."""
    main([*QUICK, "--market.data=both", "--run.name=x"])
    agent, folder = Agent.load("runs/x"), "runs/x"
    cases = [
        (dict(prices="p.csv", like="C"), ["--data", "p.csv", "--like", "C"], "{like}=C is none of the symbols"),
        (dict(prices="p.csv"), ["--data", "p.csv"], "{like}=SYMBOL says as which of its symbols"),
        (dict(prices="both", position=0.5), ["--data", "both", "--position", "0.5"], "{position}"),
        (dict(prices="both", first="today"), ["--data", "both", "--from", "today"], "{first} and {last}: a period"),
        (dict(prices="both/x.pdf"), ["--data", "both/x.pdf"], "{prices}: both/x.pdf is no folder, does not end in"),
        (dict(prices="both", zone="Mars"), ["--data", "both", "--zone", "Mars"], "{zone}=Mars is no zone"),
    ]
    words = {name: name for name in ("like", "first", "last", "prices", "zone")}
    words["position"] = "position=dict(SYMBOL=X)"
    flags = dict(
        like="--like", position="--position SYMBOL=X", first="--from", last="--to", prices="--data", zone="--zone"
    )
    for keywords, arguments, sentence in cases:
        with pytest.raises(ValueError) as refusal:  # noqa: PT011  # its sentence is looked at below
            agent.signal(**keywords)
        assert sentence.format(**words) in str(refusal.value)
        assert "--" not in str(refusal.value)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["signal", folder, *arguments])
        assert sentence.format(**flags) in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^first and last: a period"):
        agent.backtest("both", "2001-01-01", "soon")


def test_tensors_of_a_checkpoint_lie_wherever_they_were_saved(home):
    """``torch.load`` maps them to the CPU; a checkpoint says nothing of where it is read."""
    main([*QUICK, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
    path = newest_first(home / "runs" / "x")[0]
    tensors, state = read(path)
    assert all(value.device == torch.device("cpu") for value in tensors["parameters"]["policy"].values())
    tensors["cuda_rng"] = [torch.get_rng_state()] * 2
    write(home / "runs" / "x", int(path.name) + 2, tensors, state)
    assert Agent.load("runs/x", "last").step == 64
    main(["--resume", "runs/x", "--run.total_timesteps=128"])
