"""A cell whose policy is recurrent: the probe carries the states of actor and critic."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comparisons import cell_of_sp500

from market_regimes.compare import probe as probe_module
from market_regimes.compare.cell import run_cell
from market_regimes.compare.probe import Probe
from market_regimes.config import RunConfig
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

RECURRENT = dict(policy="MlpLstmPolicy", sequence_length=16, policy_kwargs=dict(lstm_hidden_size=8))
CELL = cell_of_sp500()
MARKET = CELL.market
ALGORITHM = {**CELL.algorithm, **RECURRENT}


def test_a_cell_measures_what_others_do_but_for_the_gradients():
    figures = run_cell(replace(CELL, variant="recurrent", algorithm=ALGORITHM))["figures"]
    names = {"value_loss", "explained_variance", "weight_mean", "test_sharpe", "test_calibration_error"}
    names |= {"test_explained_variance", "value_error_calm", "spread_stormy"}
    assert names <= {name for name, value in figures.items() if value is not None}
    assert not [name for name in figures if name.startswith("grad_ratio")]


def test_the_probe_asks_step_by_step_what_a_loop_asks(monkeypatch):
    """Actions and values of its episodes against ``forward``, one bar after the other, from zero states."""
    monkeypatch.setattr(probe_module, "EPISODES", 3)
    segments = segments_of(MARKET, ("train",))
    study = Study(RunConfig(n_envs=2), MARKET, ALGORITHM, segments)
    model = study.model
    probe = Probe(segments["train"], study.trading, 0.9)
    with probe_module._without_side_effects(model), torch.no_grad():
        episode = probe._episodes(model)
        observations = probe_module.normalised(model, episode.observations[:-1])
    steps = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40)
    with torch.no_grad():
        quantiles = probe._quantiles(model, observations, steps).reshape(40, 3, -1)
        states, starts = model.policy.initial_states(3), torch.zeros(3)
        for t in range(40):
            _, values, _, states = model.policy(torch.as_tensor(observations[t]), states, starts)
            assert quantiles[t].mean(axis=1) == pytest.approx(values.numpy().ravel(), rel=1e-4, abs=1e-6)


def test_the_actor_remembers_from_bar_to_bar_of_the_probe(monkeypatch):
    """Positions of its episodes against SB3's ``predict``, which is handed its own states back; without chance."""
    monkeypatch.setattr(probe_module, "EPISODES", 3)
    segments = segments_of(MARKET, ("train",))
    study = Study(RunConfig(n_envs=2), MARKET, ALGORITHM, segments)
    model = study.model
    with torch.no_grad():
        model.policy.log_std[:] = -20.0
        model.policy.action_net.weight *= 100.0  # else all actions are near 0
        model.policy.action_net.bias[:] = 0.5
    probe = Probe(segments["train"], study.trading, 0.9)
    with probe_module._without_side_effects(model), torch.no_grad():
        episode = probe._episodes(model)
        observations = probe_module.normalised(model, episode.observations[:-1])

    core = Probe(segments["train"], study.trading, 0.9).core
    core.reset(np.ones(3, dtype=bool), np.random.default_rng(probe_module.SEED))
    states, starts = None, np.ones(3, dtype=bool)
    targets = []
    for t in range(40):
        assert observations[t] == pytest.approx(core.observations(), abs=1e-4)
        actions, states = model.predict(core.observations(), states, starts, deterministic=True)
        forgetful, _ = model.predict(core.observations(), None, np.ones(3, dtype=bool), deterministic=True)
        targets.append((actions, forgetful))
        starts = np.zeros(3, dtype=bool)
        core.step(study.trading.targets(actions))
    remembered, forgotten = np.swapaxes(targets, 0, 1)
    assert np.abs(remembered - forgotten).max() > 0.1  # memory moves these positions
