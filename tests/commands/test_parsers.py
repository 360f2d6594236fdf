"""The parsers of the commands: help, version, and the configurations that ship."""

from pathlib import Path

import pytest

import distributional_ppo
from market_regimes.commands import parsers
from market_regimes.run.study import Study
from train_model_multi_patch import main

ROOT = Path(__file__).parents[2]


def test_help_shows_the_defaults_that_the_command_has(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    text = " ".join(capsys.readouterr().out.split())

    assert "(type: float, default: 1.8)" in text  # vf_coef of configs/train.yaml; PPO's is 0.5
    assert "--defaults" in text


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"distributional-ppo {distributional_ppo.__version__}\n"


def test_help_lists_every_flag_with_its_meaning(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])

    text = capsys.readouterr().out

    for flag in ("use_variance_gradient_scaling", "quantile_huber_kappa", "policy_kwargs.n_quantiles"):
        assert f"--algorithm.{flag}" in text

    assert "clamped mean variance" in text


@pytest.mark.parametrize(
    "config",
    [path for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stem not in {"compare", "regimes", "tune"}],
    ids=lambda path: path.name,
)
def test_every_config_loads(config):
    parser = parsers.train_parser()
    loaded = parser.parse_args([f"--config={ROOT / 'configs/train.yaml'}", f"--config={config}"])
    Study(*[getattr(parser.instantiate(loaded), name) for name in ("run", "market")], loaded.algorithm.as_dict())
