"""A flag of the section ``algorithm`` is what a constructor's parameter becomes."""

import inspect

from distributional_ppo import DistributionalPPO
from market_regimes.commands.algorithm_flags import ALGORITHM_FLAGS
from market_regimes.commands.flag import Flag


def test_the_list_holds_flags_and_each_name_once():
    names = [flag.name for flag in ALGORITHM_FLAGS]

    assert all(type(flag) is Flag for flag in ALGORITHM_FLAGS)
    assert len(set(names)) == len(names)


def test_a_flag_has_the_default_of_the_constructor():
    defaults = inspect.signature(DistributionalPPO).parameters
    flags = {flag.name: flag for flag in ALGORITHM_FLAGS}

    assert flags["use_variance_gradient_scaling"].default == defaults["use_variance_gradient_scaling"].default
    assert flags["gamma"].default == 0.99
