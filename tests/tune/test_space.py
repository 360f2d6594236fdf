"""The search space: what may be varied, in which form, and what is said of anything else."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from market_regimes.commands.parsers import train_parser
from market_regimes.tune.space import check_key, distribution_of, ends_of, nested


@pytest.mark.parametrize(
    ("wanted", "distribution", "ends"),
    [
        ([64, 128], CategoricalDistribution([64, 128]), [64, 128]),
        (["batch", None, True], CategoricalDistribution(["batch", None, True]), ["batch", None, True]),
        ({"low": 1, "high": 8}, IntDistribution(1, 8), [1, 8]),
        ({"low": 2, "high": 8, "step": 2}, IntDistribution(2, 8, step=2), [2, 8]),
        ({"low": 0, "high": 0.5}, FloatDistribution(0, 0.5), [0, 0.5]),
        ({"low": 1e-4, "high": 1, "log": True}, FloatDistribution(1e-4, 1, log=True), [1e-4, 1]),
        ({"low": 1, "high": 2, "step": 0.5}, FloatDistribution(1, 2, step=0.5), [1, 2]),
    ],
)
def test_forms(wanted, distribution, ends):
    assert distribution_of("algorithm.gamma", wanted) == distribution
    assert ends_of(wanted) == ends


@pytest.mark.parametrize(
    "wanted",
    [
        *([], [[64, 64]], [{}], "0.9", 0.9, None, {}, {"low": 1}, {"low": 1, "high": 2, "base": 10}),
        *({"low": "1", "high": 2}, {"low": True, "high": 2}, {"low": None, "high": 2}, {"low": 1, "high": 2, "log": 1}),
        *({"low": 2, "high": 1}, {"low": 0, "high": 1.0, "log": True}, {"low": 1, "high": 2, "step": "a"}),
        {"low": 1.0, "high": float("nan")},
        {"low": 1.0, "high": float("inf")},
    ],
)
def test_anything_else_is_refused_with_its_key(wanted):
    with pytest.raises(ValueError, match=r"space\.algorithm\.gamma"):
        distribution_of("algorithm.gamma", wanted)


@pytest.mark.parametrize("key", ["algorithm.gamma", "algorithm.policy_kwargs.n_quantiles", "run.n_envs"])
def test_keys_of_the_algorithm_and_some_of_the_run_are_varied(key):
    check_key(key, train_parser().types)


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("algorithm.gama", "a key that train has not"),
        ("market.trading.fee_bp", "a search varies keys of algorithm"),
        ("market.test", "a search varies keys of algorithm"),
        ("algorithm.seed", "a search varies keys of algorithm but the seed"),
        ("run.out", "a search varies keys of algorithm"),
        ("seeds", "a search varies keys of algorithm"),
    ],
)
def test_other_keys_are_refused(key, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_key(key, train_parser().types)


def test_sections_within_sections():
    values = {"algorithm.gamma": 0.9, "algorithm.policy_kwargs.n_quantiles": 5, "run.n_envs": 2}
    assert nested(values) == {"algorithm": {"gamma": 0.9, "policy_kwargs": {"n_quantiles": 5}}, "run": {"n_envs": 2}}
