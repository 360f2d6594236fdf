"""The configuration that a command line comes to: flags over files over what ships."""

from pathlib import Path

import pytest
import yaml

import train_model_multi_patch
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]


def resolved(monkeypatch, *arguments):
    """The configuration that the command line comes to."""
    seen = []
    monkeypatch.setattr(train_model_multi_patch, "_run", lambda parser, config: seen.append(config))
    main(list(arguments))
    config = seen[0][seen[0].command].clone()
    config.pop("config")
    return config


def test_files_lie_over_the_shipped_configuration_and_flags_over_files_wherever_they_stand(tmp_path, monkeypatch):
    shipped = yaml.safe_load((ROOT / "configs" / "train.yaml").read_text())["algorithm"]

    assert (shipped["gamma"], shipped["vf_coef"], shipped["n_steps"]) == (0.95, 1.8, 256)

    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("algorithm: {gamma: 0.5, n_steps: 32}")
    two.write_text("algorithm: {gamma: 0.6}")
    files, flag = ["--config", str(one), f"--config={two}"], "--algorithm.n_steps=64"

    for arguments in ([*files, flag], [flag, *files], [*files[:2], flag, files[2]]):
        algorithm = resolved(monkeypatch, "train", *arguments).algorithm
        assert (algorithm.gamma, algorithm.vf_coef, algorithm.n_steps) == (0.6, 1.8, 64)

    # The other order of the files; and PPO's 0.5 where no shipped configuration is wanted.
    assert resolved(monkeypatch, "train", f"--config={two}", f"--config={one}").algorithm.gamma == 0.5

    two.write_text("defaults: none\nalgorithm: {gamma: 0.6}")

    for arguments in ([f"--config={two}"], [f"--config={one}", "--defaults=none"]):
        assert resolved(monkeypatch, "train", *arguments).algorithm.vf_coef == 0.5


@pytest.mark.parametrize("command", ["train", "sanity", "compare", "regimes"])
def test_a_key_in_a_file_is_the_same_as_its_flag(command, tmp_path, monkeypatch):
    config = tmp_path / "mine.yaml"
    config.write_text("market: {data: nasdaq}")

    assert resolved(monkeypatch, command, "--config", str(config)) == resolved(
        monkeypatch, command, "--market.data=nasdaq"
    )


def test_variants_of_a_file_take_the_place_of_the_shipped_ones(tmp_path, monkeypatch):
    config = tmp_path / "mine.yaml"
    config.write_text("variants: {baseline: {}, own: {gamma: 0.9}}")

    assert resolved(monkeypatch, "compare", f"--config={config}").variants == {"baseline": {}, "own": {"gamma": 0.9}}
