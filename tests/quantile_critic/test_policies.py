"""The policies beside training: saving and loading, what they predict for, pickling. Oracle: SB3's policies."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from builders import (
    OBS,
    SHORT,
    ApartPolicy,
    CustomHeadPolicy,
    NormalisingExtractor,
    PlainPolicy,
    RandomEnv,
    make_walking,
)
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.dqn.policies import QNetwork
from stable_baselines3.ppo import MlpPolicy
from torch import nn

from distributional_ppo import (
    DistributionalPPO,
    QuantileActorCriticPolicy,
    RecurrentDistributionalPPO,
)


@pytest.mark.parametrize(
    ("policy", "loader", "flags"),
    [
        (PlainPolicy, PlainPolicy, {}),
        ("MlpPolicy", MlpPolicy, {}),
        (
            PlainPolicy,
            PlainPolicy,
            dict(normalize_returns=True, use_popart=True),
        ),  # value in raw units
        (CustomHeadPolicy, CustomHeadPolicy, {}),  # the last layer of a head of three
        (
            PlainPolicy,
            PlainPolicy,
            dict(
                policy_kwargs=dict(n_quantiles=1),
                use_variance_gradient_scaling=False,
            ),
        ),
        (
            PlainPolicy,
            PlainPolicy,
            dict(policy_kwargs=dict(share_features_extractor=False, net_arch=[8])),
        ),
    ],
)
def test_the_class_that_was_given_loads_a_plain_policy_with_the_same_actions_and_values(
    policy, loader, flags, tmp_path
):
    model = DistributionalPPO(policy, RandomEnv(), **SHORT, **flags).learn(128)
    model.policy.save(tmp_path / "policy")
    plain = loader.load(tmp_path / "policy", device="cpu")

    assert type(plain) is loader

    obs = torch.as_tensor(OBS)
    torch.testing.assert_close(
        plain.predict_values(obs),
        model.policy.predict_values(obs),
        rtol=1e-4,
        atol=1e-5,
    )

    logits = [ours.get_distribution(obs).distribution.logits for ours in (plain, model.policy)]
    assert torch.equal(*logits)

    whole = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(whole.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))

    for name, value in model.policy.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value), name


@pytest.mark.parametrize(
    "make_copy",
    [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy],
    ids=["pickle", "copy"],
)
@pytest.mark.parametrize("policy", ["MlpPolicy", PlainPolicy])
def test_a_policy_that_torch_compiles_can_be_pickled(policy, make_copy):
    ours = DistributionalPPO(policy, RandomEnv(), **SHORT).policy
    ours.compile(backend="eager")
    second = make_copy(ours)

    assert torch.equal(second.predict_quantiles(OBS), ours.predict_quantiles(OBS))


def test_removed_flags_name_the_version_that_has_them():
    with pytest.raises(TypeError, match=r"equal_init=False is gone.*Version 0\.1\.0"):
        DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(equal_init=False), **SHORT)
    DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(equal_init=True), **SHORT)  # as all are by now


IMAGE = spaces.Box(0, 255, (40, 40, 1), np.uint8)
DISCRETE = spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("space", "first", "batch"),
    [
        (spaces.Box(-1, 1, (3,)), OBS[0], OBS),
        (spaces.Box(-1, 1, (3,)), OBS[0].tolist(), OBS),
        (spaces.Discrete(5), 3, np.array([3, 1])),
        (spaces.Discrete(5), np.int64(3), np.array([3, 1])),
        (
            spaces.MultiDiscrete([2, 3]),
            np.array([1, 2]),
            np.array([[1, 2], [0, 0]]),
        ),
        (
            spaces.MultiBinary(3),
            np.array([1, 0, 1]),
            np.array([[1, 0, 1], [0, 0, 0]]),
        ),
        (
            DISCRETE,
            dict(a=2, b=OBS[0, :2]),
            dict(b=OBS[:2, :2], a=np.array([2, 0])),
        ),
        (
            DISCRETE,
            dict(b=OBS[0, :2], a=2),
            dict(a=np.array([2, 0]), b=OBS[:2, :2]),
        ),
        (
            spaces.Box(0, 255, (40, 40, 1), np.uint8),
            np.full((40, 40, 1), 7, np.uint8),
            np.full((2, 40, 40, 1), 7, np.uint8),
        ),
    ],
)
def test_quantiles_are_predicted_for_whatever_actions_are(space, first, batch):
    name = (
        "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"
    )
    policy = DistributionalPPO(name, RandomEnv(space), **SHORT).policy
    policy.set_training_mode(False)

    for observations, count in ((first, 1), (batch, None)):
        actions, _ = policy.predict(observations)
        count = count or len(actions)
        quantiles = policy.predict_quantiles(observations)
        assert quantiles.shape == (count, 32)
        expected = policy.predict_values(policy.obs_to_tensor(observations)[0])
        torch.testing.assert_close(quantiles.mean(dim=1, keepdim=True), expected)
        assert policy.predict_cvar(observations, 0.1).shape == (count,)
        torch.testing.assert_close(policy.predict_cvar(observations, 1.0), expected.flatten())

    tensors = policy.obs_to_tensor(batch)[0]

    assert torch.equal(policy.predict_quantiles(tensors), policy.predict_quantiles(batch))


def test_predict_leaves_no_module_in_training_mode():
    policy = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy

    for mode in (True, False):
        policy.set_training_mode(mode)
        policy.value_net.train(not mode)  # one of many
        policy.set_training_mode(mode)
        assert {module.training for module in policy.modules()} == {mode}

    policy.value_net.train()
    policy.predict(OBS)

    assert not any(module.training for module in policy.modules())

    policy.train = None  # not asked where nothing is to change
    policy.predict(OBS)


@pytest.mark.parametrize("n_quantiles", [1, 32, 51, 200])
def test_predictions_have_their_shapes_and_agree(n_quantiles):
    flags = dict(normalize_returns=True, use_variance_gradient_scaling=n_quantiles > 1)
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        policy_kwargs=dict(n_quantiles=n_quantiles),
        **SHORT,
        **flags,
    )
    model.learn(128)
    obs = torch.randn(7, 3)
    quantiles = model.policy.predict_quantiles(obs)
    values = model.policy.predict_values(obs)

    assert quantiles.shape == (7, n_quantiles)
    assert values.shape == (7, 1)
    assert torch.allclose(quantiles.mean(dim=1, keepdim=True), values, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.policy.predict_quantiles(obs.numpy()), quantiles)


@pytest.mark.parametrize("kind", [DistributionalPPO, RecurrentDistributionalPPO])
@pytest.mark.parametrize("twins", [True, False])
def test_predicted_quantiles_and_cvar_have_no_gradient(kind, twins):
    name = "MlpPolicy" if kind is DistributionalPPO else "MlpLstmPolicy"
    model = kind(
        name,
        "CartPole-v1",
        device="cpu",
        n_steps=32,
        batch_size=32,
        use_twin_critics=twins,
    )
    obs = model.get_env().reset()
    state = [] if kind is DistributionalPPO else [model._last_lstm_states, np.ones(1)]
    quantiles = model.policy.predict_quantiles(obs, *state)

    assert not quantiles.requires_grad
    assert quantiles.numpy().shape == (1, 32)

    if kind is DistributionalPPO:
        assert not model.policy.predict_cvar(obs, 0.1).requires_grad
        assert model.policy.quantiles_of_loss(torch.as_tensor(obs)).requires_grad


def test_cvar_is_the_mean_of_the_worst_share(monkeypatch):
    policy = make_walking(policy_kwargs=dict(n_quantiles=4)).policy
    monkeypatch.setattr(
        policy,
        "predict_quantiles",
        lambda obs: torch.tensor([[4.0, 1.0, 3.0, 2.0]]),
    )

    assert policy.predict_cvar(None, 1.0).tolist() == pytest.approx([2.5])
    assert policy.predict_cvar(None, 0.25).tolist() == pytest.approx([1.0])
    assert policy.predict_cvar(None, 0.1).tolist() == pytest.approx([1.0])
    assert policy.predict_cvar(None, 0.375).tolist() == pytest.approx([(0.25 * 1 + 0.125 * 2) / 0.375])

    for alpha in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="alpha"):
            policy.predict_cvar(None, alpha)


@pytest.mark.parametrize(
    ("policy", "make_env", "policy_kwargs"),
    [
        (
            "CnnPolicy",
            lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1),
            dict(net_arch=[8]),
        ),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False), {}),
        ("MlpPolicy", lambda: RandomEnv(spaces.Discrete(5)), {}),
        (
            "MlpPolicy",
            lambda: RandomEnv(),
            dict(share_features_extractor=False, activation_fn=nn.ReLU),
        ),
        (
            "MlpPolicy",
            lambda: RandomEnv(),
            dict(net_arch=dict(pi=[8], vf=[8, 8]), optimizer_class=torch.optim.AdamW),
        ),
        (ActorCriticPolicy, lambda: RandomEnv(), {}),
        (
            CustomHeadPolicy,
            lambda: RandomEnv(),
            dict(features_extractor_class=NormalisingExtractor),
        ),
    ],
)
def test_policies_train_save_pickle_and_load_without_a_warning_of_ours(policy, make_env, policy_kwargs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*mini-batch size.*|.*normalized Box action.*")
        policy_kwargs = {**policy_kwargs, "n_quantiles": 8}
        model = DistributionalPPO(
            policy,
            make_env(),
            policy_kwargs=policy_kwargs,
            normalize_returns=True,
            **SHORT,
        )
        model.learn(64)

    obs = model.get_env().reset()
    model.policy.set_training_mode(False)
    model.predict(obs)  # SB3's action distributions keep their last graph, which cannot be copied

    model.save(tmp_path / "model")
    model.policy.save(tmp_path / "policy")

    copies = [
        DistributionalPPO.load(tmp_path / "model", device="cpu").policy,
        model.policy_class.load(tmp_path / "policy", device="cpu"),
        pickle.loads(pickle.dumps(model.policy)),
        copy.deepcopy(model.policy),
    ]

    for policy_copy in copies:
        policy_copy.set_training_mode(False)
        assert isinstance(policy_copy, QuantileActorCriticPolicy)
        assert torch.equal(policy_copy.predict_quantiles(obs), model.policy.predict_quantiles(obs))

    for name, tensor in model.policy.state_dict().items():
        assert tensor.is_floating_point() or "num_batches_tracked" in name, name


@pytest.mark.parametrize(
    ("policy", "policy_kwargs"),
    [
        ("MlpPolicy", {}),
        ("MlpPolicy", dict(ortho_init=False)),
        (
            "MlpPolicy",
            dict(net_arch=dict(pi=[64], vf=[16])),
        ),  # fewer inputs than quantiles
        (
            "MlpPolicy",
            dict(
                share_features_extractor=False,
                features_extractor_class=NormalisingExtractor,
            ),
        ),
        (CustomHeadPolicy, {}),
    ],
)
@pytest.mark.parametrize("n_quantiles", [2, 32, 200])
def test_the_first_rollout_and_all_quantiles_are_those_of_ppo(policy, policy_kwargs, n_quantiles):
    """Oracle: SB3's PPO. The head takes the random numbers of PPO's value, and so all after it are PPO's."""

    def begin(make, **more):
        model = make(policy, RandomEnv(), policy_kwargs={**policy_kwargs, **more}, **SHORT)
        _, callback = model._setup_learn(64)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 64)
        return model

    theirs = begin(PPO)
    ours = begin(DistributionalPPO, n_quantiles=n_quantiles)
    observations = torch.rand(64, 3)

    with torch.no_grad():
        quantiles = ours.policy.predict_quantiles(observations)
        values = theirs.policy.predict_values(observations)

    torch.testing.assert_close(quantiles, values.expand_as(quantiles), atol=1e-6, rtol=0)
    assert torch.equal(ours.policy.action_net.weight, theirs.policy.action_net.weight)
    assert np.array_equal(ours.rollout_buffer.actions, theirs.rollout_buffer.actions)
    assert ours.rollout_buffer.advantages == pytest.approx(theirs.rollout_buffer.advantages, abs=1e-5)


def test_the_layers_before_the_head_learn_as_fast_as_those_of_ppo():
    """Oracle: SB3's PPO. The gradient of the mean in the hidden layers is that of its value, not a fraction of it."""

    def gradients(policy):
        policy.predict_values(torch.linspace(-1, 1, 48).reshape(16, 3)).sum().backward()
        return [parameter.grad for parameter in policy.mlp_extractor.value_net.parameters()]

    theirs = gradients(PPO("MlpPolicy", RandomEnv(), **SHORT).policy)
    for ours, their in zip(
        gradients(DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy),
        theirs,
        strict=True,
    ):
        torch.testing.assert_close(ours, their, atol=1e-5, rtol=1e-4)
    apart = DistributionalPPO(ApartPolicy, RandomEnv(), **SHORT).policy
    for ours, their in zip(gradients(apart), theirs, strict=True):
        assert ours.norm() < 0.5 * their.norm()


@pytest.mark.parametrize("ortho_init", [True, False])
@pytest.mark.parametrize("n_quantiles", [2, 3])
def test_two_quantiles_and_more_begin_as_one(n_quantiles, ortho_init):
    """The critic's Adam has torch's own epsilon, the actor's that of PPO."""
    policy_kwargs = dict(n_quantiles=n_quantiles, ortho_init=ortho_init)
    model = DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=policy_kwargs, seed=0, device="cpu")
    quantiles = model.policy.predict_quantiles(np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32))

    assert quantiles.shape == (20, n_quantiles)
    assert torch.equal(quantiles, quantiles[:, :1].expand_as(quantiles))
    assert sorted(group["eps"] for group in model.policy.optimizer.param_groups) == [1e-8, 1e-5]


def test_policies_without_a_critic_are_refused():
    with pytest.raises(TypeError, match="ActorCriticPolicy, got QNetwork"):
        DistributionalPPO(QNetwork, RandomEnv(), **SHORT)


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_the_policy_can_be_exported(env):
    """As one graph, such as ONNX asks for. Oracle: the policy itself."""

    class Deterministic(nn.Module):
        def __init__(self, policy):
            super().__init__()
            self.policy = policy

        def forward(self, observations):
            return self.policy(observations, deterministic=True)

    module = Deterministic(DistributionalPPO("MlpPolicy", env, **SHORT).policy.eval())
    observations = torch.zeros(1, *module.policy.observation_space.shape)
    exported = torch.export.export(module, (observations,), strict=False).module()
    for ours, theirs in zip(exported(observations), module(observations), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_policy_can_be_exported_for_any_number_of_observations():
    policy = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy.eval()

    class Deterministic(nn.Module):
        def __init__(self):
            super().__init__()
            self.policy = policy

        def forward(self, observations):
            return self.policy(observations, deterministic=True)[:2]

    dynamic = {"observations": {0: torch.export.Dim("batch", min=2, max=64)}}
    exported = torch.export.export(Deterministic(), (torch.zeros(3, 3),), dynamic_shapes=dynamic, strict=False).module()
    for ours, theirs in zip(
        exported(torch.as_tensor(OBS)),
        policy(torch.as_tensor(OBS), True)[:2],
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


class CustomMultiInputPolicy(MultiInputActorCriticPolicy):
    """A user's policy for dicts."""


def test_custom_policies_for_dicts_load_as_plain_policies(tmp_path):
    model = DistributionalPPO(CustomMultiInputPolicy, RandomEnv(DISCRETE), **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    obs = dict(a=np.array([2, 0]), b=OBS[:2, :2])
    plain = CustomMultiInputPolicy.load(tmp_path / "policy", device="cpu")
    tensors = plain.obs_to_tensor(obs)[0]

    torch.testing.assert_close(plain.predict_values(tensors), model.policy.predict_values(tensors))
