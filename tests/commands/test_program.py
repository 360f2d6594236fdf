"""How a user calls this program: the words that a printed command begins with."""

import sys

import pytest

from market_regimes.commands.program import program


@pytest.mark.parametrize(
    ("called", "expected"),
    [
        ("/home/me/train_model_multi_patch.py", "python train_model_multi_patch.py"),
        ("/usr/local/bin/distributional-ppo", "distributional-ppo"),
    ],
)
def test_a_script_is_called_with_python_and_an_installed_command_by_its_name(called, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called, "train", "--run.name=x"])

    assert program() == expected


def test_several_processes_are_started_by_torchrun(monkeypatch):
    monkeypatch.setattr("market_regimes.commands.program.n_started", lambda: 2)
    monkeypatch.setattr(sys, "argv", ["/home/me/train_model_multi_patch.py"])

    assert program() == "torchrun --standalone --nproc-per-node=2 train_model_multi_patch.py"
