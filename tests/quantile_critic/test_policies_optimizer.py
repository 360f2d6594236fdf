"""The optimizer that a policy makes: its groups, its state, its form. Oracle: SB3's PPO with the same optimizer."""

import functools
import pickle

import pytest
import torch
from builders import SHORT, NormalisingExtractor, RandomEnv
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO


def test_another_optimizer_does_not_undo_what_was_learnt():
    policy = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).learn(64).policy
    weight = policy.value_net.last_layers[0].weight.clone()
    assert weight.std(dim=0).min() > 0

    policy.optimizer = torch.optim.Adam(policy.parameters())
    assert torch.equal(policy.value_net.last_layers[0].weight, weight)


class AdamPolicy(ActorCriticPolicy):
    """A user's policy that makes its optimizer itself."""

    make_optimizer = staticmethod(functools.partial(torch.optim.Adam, eps=1e-3))

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = self.make_optimizer(self.parameters(), lr=lr_schedule(1))


class RMSpropPolicy(AdamPolicy):
    make_optimizer = staticmethod(functools.partial(torch.optim.RMSprop, eps=1e-5))


@pytest.mark.parametrize(
    ("policy", "flags", "policy_kwargs", "expected"),
    [
        ("MlpPolicy", {}, {}, [1e-5, 1e-8]),
        ("MlpPolicy", dict(use_twin_critics=True), {}, [1e-5, 1e-8]),
        (
            "MlpPolicy",
            {},
            dict(
                share_features_extractor=False,
                features_extractor_class=NormalisingExtractor,
            ),
            [1e-5, 1e-8],
        ),
        (
            "MlpPolicy",
            dict(use_variance_gradient_scaling=False),
            dict(n_quantiles=1),
            [1e-5],
        ),
        ("MlpPolicy", {}, dict(optimizer_kwargs=dict(eps=1e-4)), [1e-4]),
        ("MlpPolicy", {}, dict(optimizer_class=torch.optim.AdamW), [1e-8]),
        (AdamPolicy, {}, {}, [1e-3]),
        (RMSpropPolicy, {}, {}, [1e-5]),
    ],
)
def test_only_the_critic_has_a_smaller_eps(policy, flags, policy_kwargs, expected):
    policy = DistributionalPPO(policy, RandomEnv(), policy_kwargs=policy_kwargs, **flags, **SHORT).policy
    groups = policy.optimizer.param_groups
    assert [group["eps"] for group in groups] == expected

    every = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(every) == sorted(id(parameter) for parameter in policy.parameters())

    if len(groups) == 2:
        observations = torch.rand(8, 3)
        policy.get_distribution(observations).distribution.logits.sum().backward()
        assert all(parameter.grad is None for parameter in groups[1]["params"])
        policy.zero_grad()
        policy.quantiles_of_loss(observations).sum().backward()
        assert all(parameter.grad is None for parameter in groups[0]["params"])

    copied = pickle.loads(pickle.dumps(policy))

    assert [group["eps"] for group in copied.optimizer.param_groups] == expected
    assert (
        type(policy)(**policy._get_constructor_parameters()).optimizer.state_dict()["param_groups"][-1]["eps"]
        == expected[-1]
    )


@pytest.mark.parametrize(
    ("policy_kwargs", "low", "high"),
    [({}, 0, 0.05), (dict(optimizer_kwargs=dict(eps=1e-5)), 0.5, 1)],
)
def test_a_small_weight_does_not_slow_the_critic(policy_kwargs, low, high):
    """Adam divides a constant factor of the loss out (Kingma & Ba 2015, section 2.1) as far as eps lets it."""
    moved = []

    for factor in (1.0, 2.0**-7):
        model = DistributionalPPO(
            "MlpPolicy",
            RandomEnv(),
            use_variance_gradient_scaling=False,
            max_grad_norm=1e9,
            vf_coef=factor,
            policy_kwargs=policy_kwargs,
            **SHORT,
        )
        before = model.policy.value_net.weight.detach().clone()
        model.learn(64)
        moved.append(model.policy.value_net.weight.detach() - before)

    assert low <= (moved[0] - moved[1]).norm() / moved[0].norm() < high


@pytest.mark.parametrize("twins", [False, True])
@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize(
    "optimizer",
    [torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.NAdam],
)
def test_optimizers_that_make_their_state_at_once_or_later(optimizer, foreach, twins):
    policy_kwargs = dict(
        optimizer_class=optimizer,
        optimizer_kwargs=dict(foreach=foreach),
        n_quantiles=4,
    )
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        use_twin_critics=twins,
        policy_kwargs=policy_kwargs,
        **SHORT,
    )
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

    for group, second in zip(ours.param_groups, theirs.param_groups, strict=True):
        for first, two in zip(group["params"], second["params"], strict=True):
            assert ours.state[first]["sum"].shape == first.shape
            assert torch.equal(
                ours.state[first]["sum"].flatten()[:1],
                theirs.state[two]["sum"].flatten()[:1],
            )


@pytest.mark.parametrize(
    ("policy_kwargs", "during"),
    [
        ({}, dict(fused=True, foreach=None)),  # on the CPU
        (
            dict(optimizer_kwargs=dict(foreach=False)),
            dict(fused=None, foreach=False),
        ),
        (
            dict(optimizer_kwargs=dict(foreach=True)),
            dict(fused=None, foreach=True),
        ),
        (
            dict(optimizer_kwargs=dict(fused=True)),
            dict(fused=True, foreach=None),
        ),
        (
            dict(optimizer_kwargs=dict(fused=False)),
            dict(fused=False, foreach=None),
        ),
        (dict(optimizer_class=torch.optim.RMSprop), dict(foreach=True)),
    ],
)
def test_the_optimizer_runs_in_its_fast_form_unless_the_user_chose_a_form(policy_kwargs, during):
    records = []
    model = DistributionalPPO("MlpPolicy", RandomEnv(), policy_kwargs=policy_kwargs, **SHORT)
    optimizer = model.policy.optimizer
    optimizer.register_step_pre_hook(
        lambda opt, *_: records.append([{k: group.get(k) for k in during} for group in opt.param_groups])
    )
    before = [{k: group.get(k) for k in during} for group in optimizer.param_groups]
    model.learn(64)

    assert all(group == during for groups in records for group in groups)
    assert [{k: group.get(k) for k in during} for group in optimizer.param_groups] == before
