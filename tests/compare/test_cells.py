"""What a cell measures, by sb3-contrib's loss, closed forms and what the future must not change."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from markets import load_shipped
from sb3_contrib.common.utils import quantile_huber_loss

from distributional_ppo import DistributionalPPO
from market_regimes.compare.cell import Cell, KLAdaptiveRate, fixed_std, run_cell
from market_regimes.compare.measurements import Measurements, gradients
from market_regimes.compare.probe import Probe
from market_regimes.config import MarketConfig, RunConfig
from market_regimes.market.periods import period_of
from market_regimes.market.segments import segments_of
from market_regimes.run.study import Study

MARKET = MarketConfig(data="sp500", train=("1999-01-04", "2010-12-01"), test=("2011-01-01", "2014-12-31"))
ALGORITHM = dict(
    policy="MlpPolicy",
    seed=0,
    device="cpu",
    n_steps=128,
    batch_size=256,
    n_epochs=2,
    gamma=0.95,
    normalize_returns=True,
    use_variance_gradient_scaling=True,
    policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-5)),  # as the market configs have it
)
CELL = Cell("sp500", "fold", "batch", 0, RunConfig(total_timesteps=4096), MARKET, ALGORITHM)


@pytest.fixture(scope="module")
def result():
    return run_cell(CELL)


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


def test_the_fixed_standard_deviation_is_that_of_buy_and_hold():
    study = Study(RunConfig(), MARKET, ALGORITHM, segments_of(MARKET, ("train", "test")))
    market = load_shipped("sp500")
    days = period_of(market, *MARKET.train)
    rewards = 100 * np.diff(np.log(market.close[20 : days.stop]))  # 20 returns of history, then every bar's
    returns = np.zeros(len(rewards) + 1)
    for t in reversed(range(len(rewards))):
        returns[t] = rewards[t] + 0.95 * returns[t + 1]
    assert fixed_std(study) == pytest.approx(returns[:-1].std(), rel=1e-3)  # the first trade costs 1 bp


def test_figures_are_those_of_the_days(result):
    days, figures = pd.DataFrame(result["daily"]), result["figures"]
    assert days["date"].iloc[[0, -1]].tolist() == ["2011-01-03 00:00:00", "2014-12-31 00:00:00"]
    for prefix, column in (("test", "return"), ("hold", "hold")):
        returns = days[column]
        assert figures[f"{prefix}_sharpe"] == pytest.approx(
            np.sqrt(252) * returns.mean() / returns.std(ddof=1), rel=1e-4
        )
        assert figures[f"{prefix}_mean_reward"] == pytest.approx(100 * np.log1p(returns).mean(), rel=1e-4)
        calm = returns[(days["index"] < 15).to_numpy()]
        assert figures[f"{prefix}_sharpe_calm"] == pytest.approx(
            np.sqrt(252) * calm.mean() / calm.std(ddof=1), rel=1e-3
        )


def test_regimes_without_20_days_have_no_figures(result):
    assert "test_sharpe_crash" not in result["figures"]  # all crash days of these years lie before 2011
    assert "test_value_error_crash" not in result["figures"]
    assert result["figures"]["test_sharpe_volatile"] == result["figures"]["test_sharpe_stormy"]


def test_gaps_are_relative(result):
    figures = result["figures"]
    calm, stormy = figures["test_value_error_calm"], figures["test_value_error_stormy"]
    assert figures["test_value_error_gap_stormy"] == pytest.approx(abs(calm - stormy) / (calm + stormy))


def test_curves_have_the_update_beside_its_rollout(result):
    curves = pd.DataFrame(result["curves"])
    assert curves["step"].tolist() == [1024, 2048, 3072, 4096]
    assert curves["value_loss"].notna().tolist() == [False, True, False, True]  # every second update is probed
    assert ((curves["weight"] > 0.1) & (curves["weight"] <= 10)).all()
    assert curves["vf_coef_effective"].to_numpy() == pytest.approx(0.5 * curves["weight"].to_numpy())
    assert result["figures"]["weight_mean"] == pytest.approx(curves["weight"].mean())  # 0.2 of 4 rollouts are none


def test_the_future_changes_nothing_in_training(tmp_path, make_prices):
    """Prices of the test period only are moved; a leak would show in the curves."""
    prices = make_prices(900)
    own = MarketConfig(
        data=str(tmp_path / "a.csv"), train=("2000-01-03", "2002-06-28"), test=("2002-08-01", "2003-06-13")
    )
    prices.to_csv(tmp_path / "a.csv", index=False)
    after = prices["date"] > "2002-06-28"
    prices.loc[after, ["open", "high", "low", "close"]] *= np.linspace(1, 2, after.sum())[:, None]
    prices.to_csv(tmp_path / "b.csv", index=False)
    cells = [replace(CELL, market=replace(own, data=str(tmp_path / f"{name}.csv"))) for name in "ab"]
    one, two = (run_cell(cell) for cell in cells)
    assert one["curves"] == two["curves"]
    assert one["figures"]["test_mean_reward"] != two["figures"]["test_mean_reward"]


@pytest.fixture(scope="module")
def model():
    study = Study(
        RunConfig(),
        MARKET,
        {**ALGORITHM, "use_variance_gradient_scaling": False},
        segments_of(MARKET, ("train", "test")),
    )
    return study.model.learn(2048)


def pool(model, regime, scale=1.0):
    """Random states; returns of the stormy ones ``scale`` times as far from the prediction."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(len(regime), 23)).astype(np.float32)
    with torch.no_grad():
        values = model.policy.predict_quantiles(observations).mean(dim=1).numpy()
    noise = rng.normal(size=len(regime)) * np.where(regime == 3, scale, 1.0) * float(model.policy.value_net.ret_std)
    return dict(observations=observations, returns=values + noise, regime=regime, bar=np.arange(len(regime)))


def test_like_samples_pull_alike(model):
    found = gradients(model, pool(model, np.arange(4000) % 2 * 3))
    assert found["grad_ratio_crash"] == pytest.approx(1, abs=0.1)


def test_at_small_kappa_the_pull_does_not_grow_with_the_errors(model):
    regime = np.arange(4000) % 2 * 3
    ratios = {}
    for kappa in (100.0, 1e-3):
        model.quantile_huber_kappa = kappa
        ratios[kappa] = gradients(model, pool(model, regime, scale=10.0))["grad_ratio_crash"]
    model.quantile_huber_kappa = 1.0
    assert ratios[100.0] > 5  # the gradient of a square is the error: 10, less what the spread of the quantiles adds
    assert ratios[1e-3] == pytest.approx(1, abs=0.2)  # that of an absolute value is its sign


def test_batch_weights_leave_the_ratio_as_it_is(model):
    samples = pool(model, np.arange(4000) % 2 * 3, scale=5.0)
    off = gradients(model, samples)
    model.use_variance_gradient_scaling = True
    batch = gradients(model, samples)
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


@pytest.mark.parametrize(("kl", "rate"), [(0.021, 2e-4), (0.019, 3e-4), (0.006, 3e-4), (0.004, 4.5e-4), (None, 3e-4)])
def test_the_learning_rate_follows_the_step_of_the_policy(model, kl, rate):
    model.lr_schedule = lambda _: 3e-4
    callback = KLAdaptiveRate(0.01)
    callback.init_callback(model)
    model.logger.name_to_value.clear()
    if kl is not None:
        model.logger.record("train/approx_kl", kl)
    callback._on_rollout_start()
    assert model.lr_schedule(0.5) == pytest.approx(rate)


def test_a_rate_that_follows_the_divergence_lets_training_go_on():
    model = DistributionalPPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0, device="cpu")
    assert model.learn(48, KLAdaptiveRate(0.01)).num_timesteps == 48


class Model:
    """What the callback asks of a model."""

    def __init__(self, kl):
        self.logger = type("Logger", (), {"name_to_value": {"train/approx_kl": kl}})()
        self.rate = 1e-3
        self.lr_schedule = lambda progress: self.rate


@pytest.mark.parametrize("kl", [0.02, 0.005])
def test_the_rate_stays_at_exactly_twice_and_half_the_desired_divergence(kl):
    callback = KLAdaptiveRate(0.01)
    callback.model = Model(kl)
    callback.on_rollout_start()
    assert callback.model.lr_schedule(1.0) == 1e-3
