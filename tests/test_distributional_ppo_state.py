"""
What a model carries from update to update: saved, loaded, copied, undone, given up.

Oracles: the state itself before the journey, a run without the journey, numpy.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from builders import ApartPolicy, Walk, assert_equal_tensors
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import DistributionalPPO

EVERYTHING = dict(
    normalize_returns=True,
    use_popart=True,
    return_stats_rate=0.3,
    use_twin_critics=True,
    variance_scaling_mode="dsac_t",
    clip_range_vf=0.2,
)

STATISTICS = ("ret_mean", "ret_std", "ret_updates", "std_average")


def make(seed=0, **flags):
    settings = dict(
        n_steps=24,
        batch_size=20,
        n_epochs=2,
        learning_rate=1e-2,
        seed=seed,
        device="cpu",
    )
    settings |= dict(policy_kwargs=dict(net_arch=[8], n_quantiles=5), **EVERYTHING)
    return DistributionalPPO(env=DummyVecEnv([Walk] * 2), **{"policy": "MlpPolicy", **settings, **flags})


def learn(model, updates=1, seed=None):
    """:param seed: of all random numbers from here on, and the environments begin anew"""
    if seed is not None:
        model.set_random_seed(seed)
        model.env.seed(seed)
        model._last_obs = None

    return model.learn(updates * 48, reset_num_timesteps=False)


def state(policy):
    """Copies of all tensors, with the statistics under their own names."""
    statistics = {name: getattr(policy.value_net, name).clone() for name in STATISTICS}
    return {
        **{name: parameter.detach().clone() for name, parameter in policy.named_parameters()},
        **statistics,
    }


def optimizer_state(model):
    optimizer = model.policy.optimizer
    numbers = [torch.as_tensor(v).clone() for p in model.policy.parameters() for v in optimizer.state[p].values()]
    return numbers, [(group["lr"], group["eps"], group["betas"]) for group in optimizer.param_groups]


def saved_and_loaded(model):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return DistributionalPPO.load(file, env=DummyVecEnv([Walk] * 2), device="cpu")


def set_from_a_file(model, tmp_path):
    model.save(tmp_path / "model")
    second = learn(make(seed=7))
    second.set_parameters(tmp_path / "model.zip")
    return second


def set_from_a_dict(model):
    second = make(seed=7)
    second.set_parameters(copy.deepcopy(model.get_parameters()))
    return second


def undone(model):
    """An update that fails at its end, after the first of its steps."""
    vf_coef = model.vf_coef
    before = state(model.policy)
    model.vf_coef = float("inf")

    with pytest.raises(FloatingPointError):
        learn(model)
    assert_equal_tensors(before, state(model.policy))

    model.vf_coef = vf_coef
    return model


JOURNEYS = {
    "saved and loaded": lambda model, path: saved_and_loaded(model),
    "parameters from a file": set_from_a_file,
    "parameters from a dict": lambda model, path: set_from_a_dict(model),
    "a failed update": lambda model, path: undone(model),
}


@pytest.mark.parametrize("journey", JOURNEYS.values(), ids=JOURNEYS.keys())
def test_a_journey_changes_neither_parameters_nor_statistics_nor_optimizer(journey, tmp_path):
    model = learn(make(), updates=3)
    policy = state(model.policy)
    optimizer = optimizer_state(model)

    assert policy["ret_updates"] == 3
    assert policy["std_average"].shape == (2,)
    assert len(torch.stack([*policy["std_average"], policy["ret_std"], policy["ret_mean"]]).unique()) == 4

    after = journey(model, tmp_path)
    assert_equal_tensors(policy, state(after.policy))
    assert optimizer[1] == optimizer_state(after)[1]

    for ours, theirs in zip(optimizer[0], optimizer_state(after)[0], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "journey",
    [JOURNEYS[name] for name in list(JOURNEYS)[:3]],
    ids=list(JOURNEYS)[:3],
)
def test_training_after_a_journey_is_training_without_one(journey, tmp_path):
    traveller = learn(make(), updates=2)
    traveller = learn(journey(traveller, tmp_path), updates=2, seed=5)
    second = learn(learn(make(), updates=2), updates=2, seed=5)

    assert_equal_tensors(state(second.policy), state(traveller.policy))


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda policy: pickle.loads(pickle.dumps(policy))],
    ids=["copied", "pickled"],
)
def test_a_copied_policy_keeps_its_statistics(copied):
    policy = learn(make(), updates=2).policy
    assert_equal_tensors(state(policy), state(copied(policy)))


def test_a_saved_policy_keeps_its_statistics(tmp_path):
    policy = learn(make(), updates=2).policy
    policy.save(tmp_path / "policy")
    loaded = type(policy).load(tmp_path / "policy", device="cpu")

    assert_equal_tensors(state(policy), state(loaded))


FLAGS = dict(
    quantile_huber_kappa=0.7,
    value_target="sr_lambda",
    normalize_returns=True,
    return_stats_rate=0.25,
    use_popart=True,
    distributional_vf_clip_mode="mean_and_variance",
    distributional_vf_clip_variance_factor=1.3,
    clip_range_vf_units="std",
    use_twin_critics=True,
    use_variance_gradient_scaling=False,
    variance_scaling_clip_min=0.3,
    variance_scaling_clip_max=3.0,
    variance_scaling_mode="dsac_t",
    compile=True,
)


def test_every_flag_is_saved_and_every_flag_that_fits_can_be_changed_by_load():
    """All flags are at other values than their defaults."""
    model = make(**{**EVERYTHING, **FLAGS})
    loaded = saved_and_loaded(model)
    assert {name: getattr(loaded, name) for name in FLAGS} == FLAGS
    assert loaded.clip_range_vf(1.0) == 0.2

    file = io.BytesIO()
    plain = dict(clip_range_vf=0.1, use_twin_critics=True)
    make(
        **{
            **dict.fromkeys(("normalize_returns", "use_popart"), False),
            "variance_scaling_mode": "batch",
            **plain,
        }
    ).save(file)
    loaded = DistributionalPPO.load(
        file,
        **{name: value for name, value in FLAGS.items() if name != "use_twin_critics"},
    )

    assert {name: getattr(loaded, name) for name in FLAGS} == FLAGS


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("use_popart", [False, True])
def test_normalisation_that_ends_and_begins_again_begins_with_nothing(use_popart, twins):
    """Without it the critic is raw; the statistics of a second beginning are those of its own rollouts."""
    quiet = dict(clip_range_vf=None, variance_scaling_mode="batch", use_twin_critics=twins)
    model = learn(make(use_popart=use_popart, **quiet), updates=3)
    off = DistributionalPPO.load(saved(model), env=model.env, normalize_returns=False, use_popart=False)
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 3)).astype(np.float32)
    before = off.policy.predict_quantiles(observations)
    off.learning_rate = 0.0
    off.lr_schedule = lambda progress: 0.0
    learn(off)

    assert torch.allclose(off.policy.predict_quantiles(observations), before, rtol=1e-4, atol=1e-4)

    head = off.policy.value_net
    assert (head.ret_mean.item(), head.ret_std.item(), head.ret_updates.item()) == (
        0.0,
        1.0,
        0.0,
    )

    again = DistributionalPPO.load(saved(off), env=model.env, normalize_returns=True, use_popart=use_popart)
    rollouts = []

    for _ in range(2):
        learn(again)
        rollouts.append(again.rollout_buffer.returns.astype(np.float64).copy())

    # 0.3 of the second, 0.7 * 0.3 of the first, of 0.51 in all
    mean = (0.21 * rollouts[0].mean() + 0.3 * rollouts[1].mean()) / 0.51
    square = (0.21 * (rollouts[0] ** 2).mean() + 0.3 * (rollouts[1] ** 2).mean()) / 0.51
    head = again.policy.value_net

    assert head.ret_updates.item() == 2
    assert head.ret_mean.item() == pytest.approx(mean, rel=1e-5)
    assert head.ret_std.item() == pytest.approx(np.sqrt(square - mean**2), rel=1e-4)


def saved(model):
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    return file


@pytest.mark.parametrize("twins", [False, True])
def test_popart_keeps_raw_predictions_where_the_statistics_are_rounded(twins):
    """
    Returns of about a million differ by less than float32 can tell: only the rounded statistics can be undone exactly.
    With a learning rate of 0 nothing but PopArt moves the critic.
    """

    class Large(Walk):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, 1e6 + reward, *rest

    flags = dict(
        gamma=0.0,
        learning_rate=0.0,
        clip_range_vf=None,
        return_stats_rate=1.0,
        use_twin_critics=twins,
    )
    apart = dict(net_arch=[8], n_quantiles=5)
    env = DummyVecEnv([Large] * 2)
    env.seed(0)
    model = make(
        **flags,
        variance_scaling_mode="batch",
        policy_kwargs=apart,
        policy=ApartPolicy,
    )
    model.set_env(env)
    learn(model)
    head = model.policy.value_net
    observations = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32)
    before = model.policy.predict_quantiles(observations)
    mean = head.ret_mean.item()
    learn(model, updates=4)

    assert head.ret_mean.item() != mean
    assert (model.policy.predict_quantiles(observations) != before).float().mean() < 0.01
