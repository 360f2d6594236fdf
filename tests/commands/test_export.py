"""The command ``export``: what it refuses, in one sentence."""

import re
import sys

import pytest

from train_model_multi_patch import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--out", "agent.json"], r"must end in \.onnx, got agent\.json"),
        (["--format", "torchscript"], "format wants onnx"),
        (["--checkpont", "last"], "Did you mean checkpoint"),
        (["--out", "nowhere/agent.onnx"], "nowhere does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_sentence(
    arguments, sentence, run_of_prices, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["export", str(run_of_prices[0]), *arguments])
    error = capsys.readouterr().err
    assert re.search(sentence, error)
    assert error.count("\n") == 1


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_remedy(package, run_of_prices, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit):
        main(["export", str(run_of_prices[0]), "--out", str(tmp_path / "agent.onnx")])
    remedy = rf'needs {package}, which is not installed: pip install "distributional-ppo\[onnx\]"'
    assert re.search(remedy, capsys.readouterr().err)
    assert not list(tmp_path.glob("agent.*"))
