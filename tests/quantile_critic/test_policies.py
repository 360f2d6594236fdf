"""The policies beside training: saving and loading, what they predict for, pickling. Oracle: SB3's policies."""

import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.ppo import MlpPolicy
from test_distributional_ppo import SHORT, Biasless, OwnPolicy, RandomEnv
from torch import nn

from distributional_ppo import DistributionalPPO, QuantileActorCriticPolicy, quantile_policy
from quantile_critic.distributions import LeanCategoricalDistribution, LeanDiagGaussianDistribution
from quantile_critic.keys import key_of

OBS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


class PlainPolicy(ActorCriticPolicy):
    """A user's policy."""


class AskingPolicy(ActorCriticPolicy):
    """A user's policy that asks its own `predict_values` for the value."""

    def evaluate_actions(self, obs, actions):
        distribution = self.get_distribution(obs)
        return self.predict_values(obs), distribution.log_prob(actions), distribution.entropy()

    def forward(self, obs, deterministic=False):
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)


# -------------------------------------------------------------------------------------------------- saving and loading


@pytest.mark.parametrize(
    ("policy", "loader", "flags"),
    [
        (PlainPolicy, PlainPolicy, {}),
        ("MlpPolicy", MlpPolicy, {}),
        (PlainPolicy, PlainPolicy, dict(normalize_returns=True, use_popart=True)),  # value in raw units
        (OwnPolicy, OwnPolicy, {}),  # the last layer of a head of three
        (PlainPolicy, PlainPolicy, dict(policy_kwargs=dict(n_quantiles=1), use_variance_gradient_scaling=False)),
        (PlainPolicy, PlainPolicy, dict(policy_kwargs=dict(share_features_extractor=False, net_arch=[8]))),
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
    torch.testing.assert_close(plain.predict_values(obs), model.policy.predict_values(obs), rtol=1e-4, atol=1e-5)
    logits = [own.get_distribution(obs).distribution.logits for own in (plain, model.policy)]
    assert torch.equal(*logits)
    whole = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(whole.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))
    for name, value in model.policy.state_dict().items():
        assert torch.equal(whole.state_dict()[name], value), name


def test_twin_critics_are_loaded_by_their_own_class_only(tmp_path):
    model = DistributionalPPO(PlainPolicy, RandomEnv(), use_twin_critics=True, **SHORT)
    model.policy.save(tmp_path / "policy")
    loaded = quantile_policy(PlainPolicy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(loaded.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))
    with pytest.raises(TypeError, match="n_quantiles"):
        PlainPolicy.load(tmp_path / "policy", device="cpu")


@pytest.mark.parametrize("make_copy", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy], ids=["pickle", "copy"])
@pytest.mark.parametrize("policy", ["MlpPolicy", PlainPolicy])
def test_a_policy_that_torch_compiles_can_be_pickled(policy, make_copy):
    own = DistributionalPPO(policy, RandomEnv(), **SHORT).policy
    own.compile(backend="eager")
    other = make_copy(own)
    assert torch.equal(other.predict_quantiles(OBS), own.predict_quantiles(OBS))


def test_removed_flags_name_the_version_that_has_them():
    with pytest.raises(TypeError, match=r"equal_init=False is gone.*Version 0\.1\.0"):
        DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(equal_init=False), **SHORT)
    DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=dict(equal_init=True), **SHORT)  # as all are by now


# ------------------------------------------------------------------------------------------------ what is predicted for

IMAGE = spaces.Box(0, 255, (40, 40, 1), np.uint8)
DISCRETE = spaces.Dict({"b": spaces.Box(-1, 1, (2,)), "a": spaces.Discrete(3)})


@pytest.mark.parametrize(
    ("space", "one", "batch"),
    [
        (spaces.Box(-1, 1, (3,)), OBS[0], OBS),
        (spaces.Box(-1, 1, (3,)), OBS[0].tolist(), OBS),
        (spaces.Discrete(5), 3, np.array([3, 1])),
        (spaces.Discrete(5), np.int64(3), np.array([3, 1])),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), np.array([[1, 2], [0, 0]])),
        (spaces.MultiBinary(3), np.array([1, 0, 1]), np.array([[1, 0, 1], [0, 0, 0]])),
        (DISCRETE, dict(a=2, b=OBS[0, :2]), dict(b=OBS[:2, :2], a=np.array([2, 0]))),
        (DISCRETE, dict(b=OBS[0, :2], a=2), dict(a=np.array([2, 0]), b=OBS[:2, :2])),
        (
            spaces.Box(0, 255, (40, 40, 1), np.uint8),
            np.full((40, 40, 1), 7, np.uint8),
            np.full((2, 40, 40, 1), 7, np.uint8),
        ),
    ],
)
def test_quantiles_are_predicted_for_whatever_actions_are(space, one, batch):
    name = (
        "MultiInputPolicy" if isinstance(space, spaces.Dict) else "CnnPolicy" if len(space.shape) == 3 else "MlpPolicy"
    )
    policy = DistributionalPPO(name, RandomEnv(space), **SHORT).policy
    policy.set_training_mode(False)
    for observations, count in ((one, 1), (batch, None)):
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


# ----------------------------------------------------------------------------------------------------- users' own code


def test_own_evaluate_actions_may_ask_predict_values():
    plain, asking = (DistributionalPPO(p, RandomEnv(), **SHORT).learn(128) for p in ("MlpPolicy", AskingPolicy))
    for name, value in plain.policy.state_dict().items():
        torch.testing.assert_close(asking.policy.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("name", ["evaluate_actions", "predict_values"])
def test_what_training_would_not_ask_is_refused(name):
    own = type("Own", (QuantileActorCriticPolicy,), {name: lambda self, *args: None})
    with pytest.raises(TypeError, match=f"training does not call Own.{name}: override"):
        DistributionalPPO(own, RandomEnv(), **SHORT)


@pytest.mark.parametrize("base", [LeanCategoricalDistribution, LeanDiagGaussianDistribution])
def test_lean_distributions_can_be_derived_from(base):
    class Own(base):
        def log_prob(self, actions):
            return super().log_prob(actions) - 1.0

        def entropy(self):
            return 2 * super().entropy()

    def given(kind):
        logits = torch.tensor([[0.5, -1.0, 0.25]])
        return kind(3).proba_distribution(*([logits] if base is LeanCategoricalDistribution else [logits, logits]))

    own, plain, actions = given(Own), given(base), torch.tensor([[1.0, 0.0, 2.0]])
    actions = torch.tensor([1]) if base is LeanCategoricalDistribution else actions
    assert torch.equal(own.log_prob(actions), plain.log_prob(actions) - 1.0)
    assert torch.equal(own.entropy(), 2 * plain.entropy())
    assert own.sample().shape == plain.mode().shape
    theirs = given(base.__mro__[1])
    assert torch.equal(theirs.log_prob(actions), plain.log_prob(actions))
    assert torch.equal(theirs.entropy(), plain.entropy())


def test_the_second_critic_leaves_the_actor_as_ppo_draws_it():
    """Oracle: SB3's PPO of the same seed. The two critics differ, but for their shapes."""
    theirs = PPO("MlpPolicy", RandomEnv(), **SHORT).policy
    ours = DistributionalPPO("MlpPolicy", RandomEnv(), use_twin_critics=True, **SHORT).policy
    assert torch.equal(ours.action_net.weight, theirs.action_net.weight)
    first, second = ours.mlp_extractor.value_net.first, ours.mlp_extractor.value_net.second
    for one, other, expected in zip(
        first.parameters(), second.parameters(), theirs.mlp_extractor.value_net.parameters(), strict=True
    ):
        assert torch.equal(one, expected)
        if one.dim() == 2:
            assert not torch.equal(one, other)
            identity = torch.eye(min(other.shape)) * 2  # orthogonal, of gain sqrt(2), as SB3 draws
            product = other.T @ other if other.shape[0] >= other.shape[1] else other @ other.T
            torch.testing.assert_close(product, identity, atol=1e-5, rtol=0)
    heads = [layer.weight[0] for layer in ours.value_net.last_layers]
    assert [head.norm().item() for head in heads] == pytest.approx([1.0, 1.0])  # gain 1
    assert not torch.equal(*heads)


class OwnMultiInput(MultiInputActorCriticPolicy):
    """A user's policy for dicts."""


def test_own_policies_for_dicts(tmp_path):
    model = DistributionalPPO(OwnMultiInput, RandomEnv(DISCRETE), **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    obs = dict(a=np.array([2, 0]), b=OBS[:2, :2])
    plain = OwnMultiInput.load(tmp_path / "policy", device="cpu")
    tensors = plain.obs_to_tensor(obs)[0]
    torch.testing.assert_close(plain.predict_values(tensors), model.policy.predict_values(tensors))


# ------------------------------------------------------------------------------------------ what users' policies do


class ProbingPolicy(ActorCriticPolicy):
    """A user's policy that tries itself while it is built."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        with torch.no_grad():
            self.predict_values(torch.zeros(1, 3))
            self(torch.zeros(1, 3))


class DroppingPolicy(AskingPolicy):
    """And that forgets half of the critic's features in training, and counts how often."""

    def _build_mlp_extractor(self):
        super()._build_mlp_extractor()
        self.norm = nn.BatchNorm1d(64)
        self.mlp_extractor.value_net.append(nn.Dropout(0.5)).append(self.norm)


def test_a_policy_may_try_itself_while_it_is_built():
    plain, probing = (DistributionalPPO(p, RandomEnv(), **SHORT).policy for p in ("MlpPolicy", ProbingPolicy))
    assert torch.equal(probing.predict_quantiles(OBS), plain.predict_quantiles(OBS))


def test_a_critic_with_dropout_is_asked_once_per_minibatch():
    model = DistributionalPPO(DroppingPolicy, RandomEnv(), **SHORT).learn(64)
    assert model.policy.norm.num_batches_tracked == 2 * 2  # epochs times minibatches


@pytest.mark.parametrize("n_quantiles", [1, 4])
def test_values_that_a_policy_asks_for_are_raw_once(n_quantiles):
    """Oracle: the same policy without a `forward` of its own."""
    flags = dict(normalize_returns=True, policy_kwargs=dict(n_quantiles=n_quantiles), **SHORT)
    flags |= dict(use_variance_gradient_scaling=False)
    plain, asking = (
        DistributionalPPO(p, RandomEnv(scale=50.0), **flags).learn(192) for p in (PlainPolicy, AskingPolicy)
    )
    for name, value in plain.policy.state_dict().items():
        torch.testing.assert_close(asking.policy.state_dict()[name], value, msg=name)
    values = [model.policy(torch.as_tensor(OBS))[1] for model in (plain, asking)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(values[1], asking.policy.predict_values(torch.as_tensor(OBS)))


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam])
def test_optimizers_that_make_their_state_at_once_or_later(optimizer, foreach, twins):
    policy_kwargs = dict(optimizer_class=optimizer, optimizer_kwargs=dict(foreach=foreach), n_quantiles=4)
    model = DistributionalPPO("MlpPolicy", RandomEnv(), use_twin_critics=twins, policy_kwargs=policy_kwargs, **SHORT)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    for parameter, old in zip(model.policy.parameters(), before, strict=True):
        state = model.policy.optimizer.state[parameter]
        assert all(v.shape in (parameter.shape, ()) for v in state.values() if isinstance(v, torch.Tensor))
        assert not torch.equal(parameter, old)


def test_the_state_of_adagrad_begins_as_ppos():
    """Oracle: SB3's PPO with the same optimizer."""
    flags = dict(policy_kwargs=dict(optimizer_class=torch.optim.Adagrad), **SHORT)
    theirs = PPO("MlpPolicy", RandomEnv(), **flags).policy.optimizer
    ours = DistributionalPPO("MlpPolicy", RandomEnv(), **flags).policy.optimizer
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for one, two in zip(group["params"], other["params"], strict=True):
            assert ours.state[one]["sum"].shape == one.shape
            assert torch.equal(ours.state[one]["sum"].flatten()[:1], theirs.state[two]["sum"].flatten()[:1])


class GroupedPolicy(ActorCriticPolicy):
    """A user's policy whose optimizer decays the critic's head and leaves the log of its own scale out."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        head = list(self.value_net.parameters())
        rest = [p for p in self.parameters() if id(p) not in set(map(id, head))]
        groups = [{"params": head, "weight_decay": 0.5}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr_schedule(1))


def test_a_second_critic_joins_the_groups_of_the_first():
    policy = DistributionalPPO(GroupedPolicy, RandomEnv(), use_twin_critics=True, **SHORT).policy
    sizes = [(group["weight_decay"], len(group["params"])) for group in policy.optimizer.param_groups]
    assert sizes == [
        (0.5, 4),
        (0.0, 14),
    ]  # two heads; 3 x 2 of the actor's, 2 x 2 x 2 of the critics'
    decayed = set(map(id, policy.optimizer.param_groups[0]["params"]))
    assert decayed == {id(p) for layer in policy.value_net.last_layers for p in layer.parameters()}


class SavingPolicy(ActorCriticPolicy):
    """A user's policy that saves itself in its own way."""

    def save(self, path):
        path.write_text("mine")


def test_a_policys_own_save_is_used(tmp_path):
    DistributionalPPO(SavingPolicy, RandomEnv(), **SHORT).policy.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


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
    for ours, theirs in zip(exported(torch.as_tensor(OBS)), policy(torch.as_tensor(OBS), True)[:2], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_compiled_code_depends_on_is_in_its_key():
    """Each of these changes what a graph of the policy computes."""
    policy, obs = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy, torch.zeros(2, 3)
    changes = [
        lambda: policy.mlp_extractor.policy_net.__setitem__(1, nn.Sigmoid()),
        lambda: setattr(policy, "normalize_images", False),
        lambda: policy.mlp_extractor.policy_net.__setitem__(3, nn.LeakyReLU()),
        lambda: setattr(policy.mlp_extractor.policy_net[3], "negative_slope", 0.5),
        lambda: setattr(policy.action_dist, "scale", 2.0),
        lambda: setattr(policy.action_net.weight, "data", policy.action_net.weight.data.t().contiguous().t()),
        lambda: policy.eval(),
    ]
    keys = [key_of(policy, obs)]
    for change in changes:
        change()
        keys.append(key_of(policy, obs))
        assert keys[-1] != keys[-2]
    policy.my_counter = 1  # which the class's own code does not read
    assert key_of(policy, obs) == keys[-1] == key_of(policy, torch.zeros(2, 3))
    for other in (torch.zeros(3, 3), torch.zeros(2, 3).double(), torch.zeros(3, 2).t()):
        assert key_of(policy, other) != keys[-1]


def test_a_head_without_a_bias_has_a_plain_form_while_no_mean_must_be_added(tmp_path):
    model = DistributionalPPO(Biasless, RandomEnv(), **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    plain = Biasless.load(tmp_path / "policy", device="cpu")
    torch.testing.assert_close(
        plain.predict_values(torch.as_tensor(OBS)), model.policy.predict_values(torch.as_tensor(OBS))
    )
    model = DistributionalPPO(Biasless, RandomEnv(), normalize_returns=True, **SHORT).learn(64)
    model.policy.save(tmp_path / "policy")
    with pytest.raises(TypeError, match="n_quantiles"):
        Biasless.load(tmp_path / "policy", device="cpu")
    loaded = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(loaded.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))


@pytest.mark.parametrize(
    ("policy_kwargs", "during"),
    [
        ({}, dict(fused=True, foreach=None)),  # on the CPU
        (dict(optimizer_kwargs=dict(foreach=False)), dict(fused=None, foreach=False)),
        (dict(optimizer_kwargs=dict(foreach=True)), dict(fused=None, foreach=True)),
        (dict(optimizer_kwargs=dict(fused=True)), dict(fused=True, foreach=None)),
        (dict(optimizer_kwargs=dict(fused=False)), dict(fused=False, foreach=None)),
        (dict(optimizer_class=torch.optim.RMSprop), dict(foreach=True)),
    ],
)
def test_the_optimizers_form_is_the_fast_one_unless_the_user_has_said_which(policy_kwargs, during):
    seen, model = [], DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=policy_kwargs, **SHORT)
    optimizer = model.policy.optimizer
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append([{k: group.get(k) for k in during} for group in opt.param_groups])
    )
    before = [{k: group.get(k) for k in during} for group in optimizer.param_groups]
    model.learn(64)
    assert all(group == during for groups in seen for group in groups)
    assert [{k: group.get(k) for k in during} for group in optimizer.param_groups] == before
