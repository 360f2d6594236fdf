"""The command ``sanity``."""

from __future__ import annotations

import math
import sys

import jsonargparse

from market_regimes.commands.parser import Parser
from market_regimes.commands.resume import start_or_resume
from market_regimes.commands.train import train_run

UPDATES = 4  # as many as the checks need


def sanity(parser: Parser, config: jsonargparse.Namespace) -> None:
    """
    Train a little, read the event file back, and exit with 1 if the scaling does not work as it should.

    :param parser: of the command
    :param config: of the run
    """
    # TensorBoard's reader takes long to import, and no other command needs it.
    from market_regimes.run.sanity import SANITY_STEPS, checks, print_checks

    if config.pop("resume") is not None:
        parser.error("sanity begins anew: leave --resume away")
    if config.seeds:
        parser.error("sanity trains one run: leave --seeds away, algorithm.seed is its seed")
    start_or_resume(parser, config, None, set(), "sanity")

    # Rollouts become shorter where they would leave fewer updates.
    config.run.total_timesteps = SANITY_STEPS
    longest = max(2, math.ceil(SANITY_STEPS / (UPDATES * config.run.n_envs)))
    n_steps = min(config.algorithm.n_steps, longest)
    if n_steps < config.algorithm.n_steps:
        print(f"algorithm.n_steps={n_steps} in place of {config.algorithm.n_steps}: sanity needs four updates")
    config.algorithm.n_steps = n_steps

    study, folder = train_run(parser, config, None)
    results = checks(folder, study.model)
    if not print_checks(results, f"{folder}, {study.model.num_timesteps} steps"):
        sys.exit(1)
