"""The examples run in this process, and print what they promise."""

import re
import runpy
from pathlib import Path

import pytest
from builders import drawing

ROOT = Path(__file__).parents[1]

SAYS = {
    "drop_in.py": [
        r"DistributionalPPO: mean return (\d+)",
        r"32 quantiles of the return",
        r"loaded with scaling off",
    ],
    "patch_trainer.py": [
        r"TheirTrainer: predicted std 0\.\d+ calm, [01]\.\d+ stormy",
        r"variance_scaling_weight",
        r"Patched: predicted std 0\.\d+ calm, [01]\.\d+ stormy",
    ],
    "own_prices.py": [
        r"orders fill at the close",
        r"agent: Sharpe ratio -?\d",
        r"buy.and.hold: Sharpe ratio",
        r"equity-test\.png",
    ],
}


def test_each_example_is_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == SAYS.keys()


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_prints_what_it_promises(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name])
    with drawing():
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
    printed = capsys.readouterr().out
    for pattern in SAYS[name]:
        assert re.search(pattern, printed), pattern

    if name == "drop_in.py":  # CartPole: a policy at random gets 22 (CartPole's documentation has 500 as the most)
        assert int(re.search(SAYS[name][0], printed)[1]) > 60

    if name == "own_prices.py":
        assert (tmp_path / "runs/own/equity-test.png").stat().st_size > 10_000


def test_own_prices_takes_a_file(tmp_path, monkeypatch):
    """Its commands are noted, not run; the test above runs them."""
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(ROOT / "examples/own_prices.py"))
    commands = []
    (tmp_path / "runs/own").mkdir(parents=True)
    (tmp_path / "runs/own/evaluation-test.json").write_text('{"joint": {"agent": {"sharpe_ratio": 0.5}}}')
    example["main"].__globals__["command_line"] = commands.append
    example["main"]("mine.csv")

    assert commands[0] == ["data", "mine.csv"]
    assert commands[1][:2] == ["train", "--market.data=mine.csv"]
    assert not (tmp_path / "prices.csv").exists()
