"""State that must not be shared, and parameters whose memory is not contiguous."""

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import DistributionalPPO

SHORT = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
STATEFUL = [torch.optim.Adam, torch.optim.Adagrad, torch.optim.RMSprop]


def made(optimizer=torch.optim.Adam, kind=DistributionalPPO, **flags):
    policy_kwargs = dict(net_arch=[8], optimizer_class=optimizer) | flags.pop("policy_kwargs", {})
    return kind(
        "MlpPolicy",
        "CartPole-v1",
        policy_kwargs=policy_kwargs,
        **SHORT,
        **flags,
    )


def moments(model):
    """Copies of the state of the optimizer, tensor by tensor."""
    state = model.policy.optimizer.state

    return [
        value.clone()
        for parameter in model.policy.parameters()
        for value in state.get(parameter, {}).values()
        if isinstance(value, torch.Tensor)
    ]


def copied_by_dict(source, target):
    target.set_parameters(source.get_parameters())


def copied_by_file(source, target, tmp_path):
    source.save(tmp_path / "model")
    target.set_parameters(tmp_path / "model.zip")


@pytest.mark.parametrize("optimizer", STATEFUL)
@pytest.mark.parametrize("flags", [{}, dict(use_twin_critics=True)], ids=["one critic", "twins"])
def test_training_the_copy_leaves_the_first_ones_parameters_and_moments(optimizer, flags):
    first = made(optimizer, **flags).learn(64)
    second = made(optimizer, **flags)
    copied_by_dict(first, second)
    before = [p.detach().clone() for p in first.policy.parameters()] + moments(first)
    second.learn(64)
    after = [*first.policy.parameters(), *moments(first)]

    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))

    moved = [*second.policy.parameters(), *moments(second)]
    assert not all(torch.equal(old, new) for old, new in zip(before, moved, strict=True))


def test_the_dict_of_parameters_stays_as_it_is_when_its_model_learns():
    source = made().learn(64)
    target = made()
    given = source.get_parameters()
    target.set_parameters(given)
    state = given["policy.optimizer"]["state"]
    before = [value.clone() for values in state.values() for value in values.values()]
    target.learn(64)
    after = [value for values in state.values() for value in values.values()]

    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("optimizer", STATEFUL)
def test_no_two_parameters_of_twin_critics_share_memory_or_state(optimizer):
    """Adagrad makes its accumulators with the instance, before the second critic is there."""
    model = made(optimizer, use_twin_critics=True)

    for _ in range(2):
        tensors = [*model.policy.parameters()]
        states = model.policy.optimizer.state.values()
        tensors += [value for state in states for value in state.values() if torch.is_tensor(value)]
        places = [tensor.untyped_storage().data_ptr() for tensor in tensors]
        assert len(set(places)) == len(places)
        model.learn(64)


def test_accumulators_of_twin_critics_are_the_sums_of_their_own_squared_gradients():
    """Adagrad's accumulator after one step is the gradient squared, of each parameter its own."""
    model = made(torch.optim.Adagrad, use_twin_critics=True)
    critics = [model.policy.value_net.net, model.policy.value_net.second]

    for weight, critic in zip((1.0, 3.0), critics, strict=True):
        for parameter in critic.parameters():
            parameter.grad = torch.full_like(parameter, weight)

    model.policy.optimizer.step()

    for weight, critic in zip((1.0, 3.0), critics, strict=True):
        for parameter in critic.parameters():
            accumulated = model.policy.optimizer.state[parameter]["sum"]
            assert torch.equal(accumulated, torch.full_like(accumulated, weight**2))
            assert accumulated.shape == parameter.shape


class Transposed(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, 8)
        self.weight = nn.Parameter(torch.randn(8, 4).t())

    def forward(self, observations):
        return observations @ self.weight


def transposed(kind, **flags):
    return made(
        kind=kind,
        policy_kwargs=dict(features_extractor_class=Transposed),
        **flags,
    )


def transposed_layer(kind, **flags):
    model = made(kind=kind, **flags)
    layer = model.policy.action_net
    layer.weight.data = layer.weight.data.t().contiguous().t()
    return model


def channels_last(kind, **flags):
    def env():
        return FakeImageEnv(screen_height=36, screen_width=36, n_channels=2)

    model = kind("CnnPolicy", DummyVecEnv([env]), **SHORT, **flags)
    model.policy.to(memory_format=torch.channels_last)
    return model


@pytest.mark.parametrize("make", [transposed, transposed_layer, channels_last])
@pytest.mark.parametrize("kind", [PPO, DistributionalPPO])
def test_parameters_that_are_not_contiguous_train(make, kind):
    model = make(kind)
    assert not all(parameter.is_contiguous() for parameter in model.policy.parameters())

    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(64)
    after = list(model.policy.parameters())

    assert not all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("make", [transposed, transposed_layer])
def test_a_nan_in_a_parameter_that_is_not_contiguous_is_undone(make):
    model = make(DistributionalPPO, max_grad_norm=float("inf"), learning_rate=1e30)
    with pytest.raises(FloatingPointError):
        model.learn(32 * 20)
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in model.policy.parameters())
