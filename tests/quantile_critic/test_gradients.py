"""
Gradients of actor and critic that are clipped apart.

Oracle: a plain loop with SB3's PPO loss, torch.autograd.grad of each part of it, and torch's clip_grad_norm_ on each
group of parameters.
"""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import needs_compiler, train_alike
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from quantile_critic.gradients import clip_gradients, parts_by_loss
from quantile_critic.rollout import Samples
from upgd import UPGD

HUGE_KAPPA = 2.0**20
# One quantile with these is PPO.
AS_PPO = dict(
    quantile_huber_kappa=HUGE_KAPPA, vf_coef=0.5 * 4 * HUGE_KAPPA, use_variance_gradient_scaling=False, ent_coef=0.01
)
SHORT = dict(n_steps=32, batch_size=20, n_epochs=3, seed=0, device="cpu", learning_rate=1e-2, max_grad_norm=0.05)
PARTS = ("grad_norm_actor", "grad_norm_critic", "grad_norm_shared")


class Contexts(gym.Env):
    """Episodes of 5 steps, whose rewards follow from the observation."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, action_space=None):
        self.action_space = action_space or spaces.Discrete(3)
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        self.steps += 1
        observation = self.observe()
        reward = 3.0 * observation[0] + float(np.sum(action))
        return observation, float(reward), self.steps == 5, False, {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)


class Extractor(BaseFeaturesExtractor):
    """A layer that is trained, with a part that no loss reaches."""

    def __init__(self, observation_space):
        super().__init__(observation_space, 6)
        self.layer = nn.Linear(3, 6)
        self.unused = nn.Linear(3, 6)

    def forward(self, observations):
        return torch.tanh(self.layer(observations))


class Noted(RolloutBuffer):
    """Keeps its minibatches in the order in which they were taken."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.taken = []

    def get(self, batch_size=None):
        for batch in super().get(batch_size):
            self.taken.append(copy.deepcopy(batch))
            yield batch


def group_of(name, shares_extractor):
    """By the names in SB3's policies."""
    if name.startswith(("value_net.", "mlp_extractor.value_net.", "vf_features_extractor.")):
        return "grad_norm_critic"
    if shares_extractor and "features_extractor.layer" in name:
        return "grad_norm_shared"
    return "grad_norm_actor"


def plain_loop(policy, batches, settings, shares_extractor):
    """PPO as in SB3, each part of the parameters clipped by itself; returns the norms of every step."""
    groups = {name: [] for name in PARTS}
    for name, parameter in policy.named_parameters():
        if parameter.requires_grad:
            groups[group_of(name, shares_extractor)].append(parameter)

    history = []
    for batch in batches:
        actions = batch.actions
        if isinstance(policy.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
        advantages = batch.advantages
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ratio = torch.exp(log_prob - batch.old_log_prob)
        surrogate = -torch.min(advantages * ratio, advantages * torch.clamp(ratio, 0.8, 1.2)).mean()
        actor_loss = surrogate - settings["ent_coef"] * entropy.mean()
        critic_loss = 0.5 * F.mse_loss(batch.returns, values.flatten())

        # Gradients of each loss, summed where both reach a parameter.
        parameters = [parameter for group in groups.values() for parameter in group]
        of_actor = torch.autograd.grad(actor_loss, parameters, retain_graph=True, allow_unused=True)
        of_critic = torch.autograd.grad(critic_loss, parameters, allow_unused=True)
        for parameter, one, other in zip(parameters, of_actor, of_critic, strict=True):
            parts = [gradient for gradient in (one, other) if gradient is not None]
            parameter.grad = sum(parts) if parts else None

        norms = {}
        for name, group in groups.items():
            if group:
                norms[name] = nn.utils.clip_grad_norm_(group, settings["max_grad_norm"]).item()
        history.append(norms)
        policy.optimizer.step()
    return history


CASES = {
    "nothing shared": (None, {}),
    "continuous": (spaces.Box(-1, 1, (2,)), {}),
    "gSDE": (spaces.Box(-1, 1, (2,)), dict(use_sde=True)),
    "shared extractor": (None, dict(policy_kwargs=dict(features_extractor_class=Extractor, net_arch=[8]))),
    "two extractors": (
        None,
        dict(policy_kwargs=dict(features_extractor_class=Extractor, share_features_extractor=False, net_arch=[8])),
    ),
    "UPGD": (None, dict(policy_kwargs=dict(optimizer_class=UPGD, optimizer_kwargs=dict(sigma=0.0)))),
    "large norm": (None, dict(max_grad_norm=1e9)),
}


@pytest.mark.parametrize("critic_loss", ["quantile_huber", "mean_and_spread"])
@pytest.mark.parametrize(("action_space", "flags"), CASES.values(), ids=CASES.keys())
def test_parameters_and_norms_are_those_of_a_plain_loop(action_space, flags, critic_loss):
    """The loss with kappa in stds and a single quantile is PPO's squared error as it is."""
    settings = SHORT | AS_PPO | flags
    if critic_loss == "mean_and_spread":
        settings |= dict(critic_loss=critic_loss, quantile_huber_kappa=1.0, vf_coef=0.5)
    settings["policy_kwargs"] = dict(n_quantiles=1) | flags.get("policy_kwargs", {})
    settings |= dict(gradient_clipping="apart", rollout_buffer_class=Noted)
    model = DistributionalPPO("MlpPolicy", Contexts(action_space), **settings)
    policy = DistributionalPPO("MlpPolicy", Contexts(action_space), **settings).policy
    policy.optimizer.param_groups[0]["lr"] = settings["learning_rate"]

    model.learn(32)
    shares_extractor = settings["policy_kwargs"].get("share_features_extractor", True)
    history = plain_loop(policy, model.rollout_buffer.taken, settings, shares_extractor)

    assert len(history) == 3 * 2
    scalars = model.logger.name_to_value
    for name in history[0]:
        expected = np.mean([norms[name] for norms in history])
        assert scalars[f"train/{name}"] == pytest.approx(expected, rel=1e-3)
    totals = [np.sqrt(sum(norm**2 for norm in norms.values())) for norms in history]
    assert scalars["train/grad_norm"] == pytest.approx(np.mean(totals), rel=1e-3)
    assert ("train/grad_norm_shared" in scalars) == ("shared" in "".join(history[0]))
    for ours, plain in zip(model.policy.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def minibatch_of(model):
    """The whole rollout as one minibatch."""
    buffer = model.rollout_buffer
    tensors = [torch.as_tensor(buffer.observations).flatten(0, 1), torch.as_tensor(buffer.actions).flatten()]
    rest = torch.zeros(len(tensors[0]))
    return Samples(tensors[0], tensors[1].long(), rest, rest, rest, None)


def names_by_part(model, minibatch):
    parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
    parts = parts_by_loss(model.policy, parameters, minibatch)
    names = {id(parameter): name for name, parameter in model.policy.named_parameters()}
    return {part: [names[id(parameter)] for parameter in group] for part, group in parts.items()}


def test_parts_are_what_each_loss_reaches_without_a_trace():
    """A parameter that no loss reaches is the actor's, and random numbers stay as they are."""
    kwargs = dict(features_extractor_class=Extractor, net_arch=[8], n_quantiles=4)
    model = DistributionalPPO("MlpPolicy", Contexts(), policy_kwargs=kwargs, **SHORT).learn(32)
    model.policy.set_training_mode(True)
    before = torch.get_rng_state()

    parts = names_by_part(model, minibatch_of(model))

    assert parts["grad_norm_shared"] == ["features_extractor.layer.weight", "features_extractor.layer.bias"]
    assert parts["grad_norm_critic"] == [
        "mlp_extractor.value_net.0.weight",
        "mlp_extractor.value_net.0.bias",
        "value_net.net.weight",
        "value_net.net.bias",
    ]
    assert parts["grad_norm_actor"] == [
        "features_extractor.unused.weight",
        "features_extractor.unused.bias",
        "mlp_extractor.policy_net.0.weight",
        "mlp_extractor.policy_net.0.bias",
        "action_net.weight",
        "action_net.bias",
    ]
    assert model.policy.training
    assert torch.equal(before, torch.get_rng_state())


def test_both_of_two_critics_are_one_part():
    model = DistributionalPPO("MlpPolicy", Contexts(), use_twin_critics=True, **SHORT).learn(32)
    parts = names_by_part(model, minibatch_of(model))
    assert parts.keys() == {"grad_norm_actor", "grad_norm_critic"}
    assert {"value_net.net.weight", "value_net.second.weight"} <= set(parts["grad_norm_critic"])


def test_a_frozen_part_is_no_part():
    model = DistributionalPPO("MlpPolicy", Contexts(), **SHORT).learn(32)
    model.policy.value_net.requires_grad_(False)
    model.policy.mlp_extractor.value_net.requires_grad_(False)
    assert names_by_part(model, minibatch_of(model)).keys() == {"grad_norm_actor"}

    model.gradient_clipping = "apart"
    model.learn(32)
    assert "train/grad_norm" in model.logger.name_to_value
    assert "train/grad_norm_critic" not in model.logger.name_to_value


def test_the_critics_scale_is_nothing_to_the_actor():
    """The value loss times 1,000: apart, the actor's first step stays to the last bit; jointly it shrinks."""
    moved = {}
    for clipping in ("apart", "joint"):
        for vf_coef in (1.0, 1000.0):
            settings = SHORT | dict(n_epochs=1, batch_size=32, vf_coef=vf_coef, gradient_clipping=clipping)
            settings["policy_kwargs"] = dict(optimizer_class=torch.optim.SGD)
            model = DistributionalPPO("MlpPolicy", Contexts(), **settings)
            before = model.policy.action_net.weight.detach().clone()
            model.learn(32)
            moved[clipping, vf_coef] = model.policy.action_net.weight.detach() - before

    assert moved["apart", 1.0].abs().max() > 0
    assert torch.equal(moved["apart", 1.0], moved["apart", 1000.0])
    assert moved["joint", 1000.0].abs().max() < 0.1 * moved["joint", 1.0].abs().max()


def test_above_the_clip_the_weight_of_the_value_loss_is_nothing_to_the_critic():
    """All cut to one norm, the gradients give one critic at vf_coef 5 and 500; at 0.1 they are below the clip."""
    critics = {}
    norms = {}
    for vf_coef in (0.1, 5.0, 500.0):
        settings = SHORT | dict(vf_coef=vf_coef, max_grad_norm=0.5, learning_rate=1e-3, gradient_clipping="apart")
        model = DistributionalPPO(
            "MlpPolicy",
            Contexts(),
            normalize_returns=True,
            use_popart=True,
            critic_loss="mean_and_spread",
            **settings,
        )
        model.learn(64)
        critics[vf_coef] = nn.utils.parameters_to_vector(model.policy.mlp_extractor.value_net.parameters()).detach()
        norms[vf_coef] = model.logger.name_to_value["train/grad_norm_critic"]

    assert norms[0.1] < 0.5 < norms[5.0]
    torch.testing.assert_close(critics[5.0], critics[500.0], rtol=1e-3, atol=1e-5)
    assert (critics[0.1] - critics[500.0]).abs().max() > 1e-3


def test_nothing_to_clip_has_a_norm_of_zero():
    assert clip_gradients([nn.Parameter(torch.ones(2))], 1.0).item() == 0.0


class SharedLstm(RecurrentActorCriticPolicy):
    """Of sb3-contrib; the critic reads the actor's LSTM without a gradient to it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, shared_lstm=True, enable_critic_lstm=False, **kwargs)


@pytest.mark.parametrize("policy", ["MlpLstmPolicy", SharedLstm])
def test_recurrent_policies_have_norms_by_hand(policy):
    """One minibatch of the whole rollout with a learning rate of 0: norms of the parts by torch.autograd."""
    model = RecurrentDistributionalPPO(
        policy,
        Contexts(),
        n_steps=32,
        batch_size=None,
        n_epochs=1,
        learning_rate=0.0,
        seed=0,
        device="cpu",
        gradient_clipping="apart",
        max_grad_norm=1e9,
        policy_kwargs=dict(lstm_hidden_size=8, n_quantiles=4),
    )
    model.learn(32)
    scalars = dict(model.logger.name_to_value)

    squares = dict.fromkeys(PARTS, 0.0)
    for name, parameter in model.policy.named_parameters():
        is_critics = name.startswith(("value_net.", "mlp_extractor.value_net.", "lstm_critic.", "critic."))
        part = "grad_norm_critic" if is_critics else "grad_norm_actor"
        if parameter.grad is not None:
            squares[part] += parameter.grad.double().square().sum().item()
    for name in PARTS[:2]:
        assert squares[name] > 0
        assert scalars[f"train/{name}"] == pytest.approx(np.sqrt(squares[name]), rel=1e-5)
    assert "train/grad_norm_shared" not in scalars


@needs_compiler
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.filterwarnings("ignore:compile=True. the loss does not reach")
def test_compiled_updates_clip_as_eager_ones_and_follow_the_flag(shares, monkeypatch):
    """With a user's extractor and a KL limit the gradients alone are compiled, else the whole update."""
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")
    settings = SHORT | dict(n_epochs=2, policy_kwargs=dict(net_arch=[8], n_quantiles=4))
    expected = {"train/grad_norm", "train/grad_norm_actor", "train/grad_norm_critic"}
    if shares:
        settings["target_kl"] = 1e9
        settings["policy_kwargs"]["features_extractor_class"] = Extractor
        expected |= {"train/grad_norm_shared"}
    eager, compiled = (DistributionalPPO("MlpPolicy", Contexts(), compile=flag, **settings) for flag in (False, True))
    assert train_alike(eager, compiled) < 1e-5
    assert "train/grad_norm_actor" not in compiled.logger.name_to_value

    for model in (eager, compiled):
        model.gradient_clipping = "apart"
    assert train_alike(eager, compiled) < 1e-5

    assert {name for name in compiled.logger.name_to_value if "grad_norm" in name} == expected
    for name in expected:
        assert compiled.logger.name_to_value[name] == pytest.approx(eager.logger.name_to_value[name], rel=1e-3)
    function = compiled._update.gradients_only if shares else compiled._update.whole
    assert function.call is not None


def test_another_choice_is_refused_by_constructor_and_load(tmp_path):
    with pytest.raises(ValueError, match="gradient_clipping must be one of 'joint', 'apart', got 'both'"):
        DistributionalPPO("MlpPolicy", Contexts(), gradient_clipping="both", **SHORT)

    DistributionalPPO("MlpPolicy", Contexts(), gradient_clipping="apart", **SHORT).save(tmp_path / "model")
    assert DistributionalPPO.load(tmp_path / "model").gradient_clipping == "apart"
    with pytest.raises(ValueError, match="gradient_clipping"):
        DistributionalPPO.load(tmp_path / "model", gradient_clipping=None)


def test_a_gradient_that_is_not_finite_undoes_the_update():
    model = DistributionalPPO("MlpPolicy", Contexts(), gradient_clipping="apart", **SHORT | dict(vf_coef=1e38))
    before = copy.deepcopy(model.policy.state_dict())
    with pytest.raises(FloatingPointError, match="non-finite number in"):
        model.learn(32)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, before[name])
