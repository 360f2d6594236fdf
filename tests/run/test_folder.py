"""What a run folder says without its data: configuration, provenance, device. Oracles: PyYAML, the standard library."""

import json

import pytest
import yaml
from builders import QUICK_FLAGS, refused

from market_regimes import Agent, MarketConfig, RunConfig, Study, TradingCosts
from market_regimes.market.segments import read_data
from market_regimes.run.algorithm import is_found
from market_regimes.run.checkpoint import newest_first
from market_regimes.run.folder import acting_device, read_configuration
from train_model_multi_patch import main

SMALL = dict(n_steps=16, batch_size=32, n_epochs=1, seed=0)


@pytest.fixture
def files(tmp_path, make_prices):
    """a.csv has opening prices, b.csv has closes only."""
    make_prices(400).to_csv(tmp_path / "a.csv", index=False)
    make_prices(400, seed=1).drop(columns="open").to_csv(tmp_path / "b.csv", index=False)
    return tmp_path


def recorded(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    fills = {name: entry["fill"] for name, entry in json.loads((folder / "run.json").read_text())["data"].items()}
    return config["market"]["trading"]["fill"], fills


@pytest.mark.parametrize(
    ("names", "stated", "fill", "fills"),
    [
        ("a", None, "next_open", {"a": "next_open"}),
        ("a", "close", "close", {"a": "close"}),
        ("a", "next_open", "next_open", {"a": "next_open"}),
        ("b", None, "close", {"b": "close"}),
        ("b", "close", "close", {"b": "close"}),
        ("ab", None, None, {"a": "next_open", "b": "close"}),  # each as its file allows
    ],
)
@pytest.mark.parametrize("python", [False, True])
def test_the_fill_that_was_done_is_recorded(files, names, stated, fill, fills, python):
    entries = [str(files / f"{name}.csv") for name in names]
    if python:
        run = RunConfig(total_timesteps=32, n_envs=2, out=str(files), name="run", progress_bar=False)
        Study(run, MarketConfig(entries, trading=TradingCosts(fill=stated)), SMALL).start()
    else:
        flags = [] if stated is None else [f"--market.trading.fill={stated}"]
        main([*QUICK_FLAGS, *flags, f"--market.data=[{','.join(entries)}]", f"--run.out={files}", "--run.name=run"])

    assert recorded(files / "run") == (fill, fills)


def test_a_run_from_python_records_periods_and_places_too(files, monkeypatch):
    """270 of 448 days are 60 %: the run evaluates on its own days when the file has grown."""
    monkeypatch.chdir(files)
    run = RunConfig(total_timesteps=32, n_envs=2, name="run", progress_bar=False)
    folder = Study(run, MarketConfig("a.csv"), SMALL).start().resolve()
    config = read_configuration(folder).market

    assert config.data == str(files / "a.csv")

    expected = read_data(MarketConfig(str(files / "a.csv"))).config

    assert (config.train, config.test) == (expected.train, expected.test)

    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files / "elsewhere")
    main(["evaluate", str(folder)])

    assert (folder / "evaluation-test.json").exists()


def test_a_folder_that_exists_is_refused_in_the_words_of_the_caller(files, capsys):
    """Python has no flags, and the command line no methods."""
    (files / "run").mkdir()
    sentence = f"the run folder {files / 'run'} exists already: choose another run.name, or "
    flags = [f"--market.data={files / 'a.csv'}", f"--run.out={files}", "--run.name=run"]

    assert f"{sentence}--resume {files / 'run'}\n" in refused(capsys, "train", *QUICK_FLAGS, *flags)

    run = RunConfig(total_timesteps=32, n_envs=2, name="run", out=str(files), progress_bar=False)

    with pytest.raises(ValueError, match=r"run\.name, or go on in it by Study\.resume$"):
        Study(run, MarketConfig(str(files / "a.csv")), SMALL).start()


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
    main([*QUICK_FLAGS, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
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
    main([*QUICK_FLAGS, "--market.data=p.csv", "--run.name=x", "--algorithm.device=cpu"])
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
