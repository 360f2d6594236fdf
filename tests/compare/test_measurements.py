"""What is measured while a critic trains, by sb3-contrib's loss, closed forms and samples made by hand."""

import numpy as np
import pytest
import torch
from comparisons import cell_of_sp500
from sb3_contrib.common.utils import quantile_huber_loss

from market_regimes.compare.measurements import Measurements, fit_of, gradients, samples_of_groups
from market_regimes.compare.probe import Probe
from market_regimes.config import RunConfig
from market_regimes.market.regimes import DEFAULT_REGIMES
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

NAMES = DEFAULT_REGIMES.names

CELL = cell_of_sp500()
MARKET = CELL.market
ALGORITHM = CELL.algorithm


def measured_of(study, std):
    """Measurements, and the samples of every probe."""
    probe, samples = Probe(study.segments["train"], study.trading, study.model.gamma), []
    play = probe.play
    probe.play = lambda model: samples.append(play(model)) or samples[-1]
    return Measurements(study.core, probe, std), samples


def test_the_fixed_loss_is_sb3_contribs():
    study = Study(RunConfig(total_timesteps=4096), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    measured, samples = measured_of(study, 0.7)
    study.model.learn(4096, [measured])
    losses = []
    for sample in samples:
        quantiles, returns = (torch.as_tensor(each / 0.7) for each in (sample.quantiles, sample.returns[:, None]))
        losses.append(float(quantile_huber_loss(quantiles, returns, sum_over_quantiles=False)))
    assert [row["value_loss"] for row in measured.curves][1::2] == pytest.approx(losses, rel=1e-5)


def pool(model, regime, scale=1.0):
    """Random states; returns of the stormy ones ``scale`` times as far from the prediction."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(len(regime), 23)).astype(np.float32)
    with torch.no_grad():
        values = model.policy.predict_quantiles(observations).mean(dim=1).numpy()
    noise = rng.normal(size=len(regime)) * np.where(regime == 3, scale, 1.0) * float(model.policy.value_net.ret_std)
    return dict(observations=observations, returns=values + noise, regime=regime, bar=np.arange(len(regime)))


def test_like_samples_pull_alike(model):
    found = gradients(model, pool(model, np.arange(4000) % 2 * 3), NAMES)
    assert found["grad_ratio_crash"] == pytest.approx(1, abs=0.1)


def test_at_small_kappa_the_pull_does_not_grow_with_the_errors(model):
    regime = np.arange(4000) % 2 * 3
    ratios = {}
    for kappa in (100.0, 1e-3):
        model.quantile_huber_kappa = kappa
        ratios[kappa] = gradients(model, pool(model, regime, scale=10.0), NAMES)["grad_ratio_crash"]
    model.quantile_huber_kappa = 1.0
    assert ratios[100.0] > 5  # the gradient of a square is the error: 10, less what the spread of the quantiles adds
    assert ratios[1e-3] == pytest.approx(1, abs=0.2)  # that of an absolute value is its sign


def test_batch_weights_leave_the_ratio_as_it_is(model):
    samples = pool(model, np.arange(4000) % 2 * 3, scale=5.0)
    off = gradients(model, samples, NAMES)
    model.use_variance_gradient_scaling = True
    batch = gradients(model, samples, NAMES)
    model.use_variance_gradient_scaling = False
    assert batch["grad_norm_calm"] != pytest.approx(off["grad_norm_calm"], rel=0.05)
    assert batch["grad_ratio_crash"] == pytest.approx(off["grad_ratio_crash"], rel=0.02)


def test_batch_weights_are_of_mixed_samples_where_regimes_differ_in_spread():
    """A weight that all regimes share leaves their ratio as it is; it is the mean variance over all regimes."""
    study = Study(RunConfig(total_timesteps=2048), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    (measured, _), policy = measured_of(study, 2.0), study.model.policy
    with torch.no_grad():  # a hidden unit that is the index, and a spread in proportion to it
        critic, head = policy.mlp_extractor.value_net, policy.value_net
        for layer, column, bias in ((critic[0], 21, -0.5), (critic[2], 0, 0.0)):
            layer.weight[0], layer.bias[0] = 0.0, bias
            layer.weight[0, column] = 1.0
        head.net.weight[:, 0] = torch.linspace(-2, 2, 32)
    study.model.lr_schedule = lambda _: 0.0
    study.model.learn(2048, [measured])
    found = {}
    for scaling in (True, False):
        study.model.use_variance_gradient_scaling = scaling
        found[scaling] = measured.figures()
    pool = {name: np.concatenate([s[name] for s in measured.samples]) for name in ("observations", "regime")}
    with torch.no_grad():
        variance = (policy.predict_quantiles(pool["observations"]) / head.ret_std).var(dim=1, unbiased=False).numpy()
    assert variance[pool["regime"] >= 2].mean() > 1.5 * variance[pool["regime"] == 0].mean()
    assert variance.mean() > 1.1 * variance[pool["regime"] == 0].mean()
    assert found[True]["grad_ratio_stormy"] == pytest.approx(found[False]["grad_ratio_stormy"], rel=0.02)
    assert 0.1 < variance.mean() < 10
    for name in ("calm", "stormy"):
        weight = found[True][f"grad_norm_{name}"] / found[False][f"grad_norm_{name}"]
        assert weight == pytest.approx(variance.mean(), rel=0.02)


def test_a_regime_needs_20_different_days_however_often_they_are_drawn():
    """Nineteen bars of crash, each drawn twice, and twenty of volatile."""
    regime = np.repeat([0, 3, 2], [50, 38, 20])
    bar = np.concatenate([np.arange(50), 100 + np.arange(38) % 19, 200 + np.arange(20)])
    groups = samples_of_groups(regime, bar, NAMES)
    assert list(groups) == ["calm", "volatile", "stormy"]
    assert groups["stormy"].tolist() == list(range(50, 108))
    assert groups["volatile"].tolist() == list(range(88, 108))


def test_a_spread_that_is_right_has_one_whatever_the_mean_error():
    """Returns of std 1, then 5 in the other half, around the values, which err by 3 throughout."""
    noise = np.array([-1.0, 1.0, -5.0, 5.0])
    values = np.array([0.0, 0.0, 10.0, 10.0])
    fit = fit_of(values, np.array([1.0, 1.0, 25.0, 25.0]), values + noise + 3.0)
    assert fit["spread"] == pytest.approx(1.0)
    # (4 + 16 + 4 + 64) / 4 = 22; returns 2, 4, 8, 18, of variance 38
    assert fit["value_error"] == pytest.approx(np.sqrt(22 / 38))
    assert fit_of(values, values, values)["spread"] is None
