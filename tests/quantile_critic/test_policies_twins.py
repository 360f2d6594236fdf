"""Twin critics. Oracles: SB3's PPO of the same seed, the smaller of two means."""

import numpy as np
import pytest
import torch
from builders import OBS, SHORT, UNEVEN, PlainPolicy, RandomEnv, Walk, make_walking
from stable_baselines3 import PPO
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from distributional_ppo import DistributionalPPO, quantile_policy


class UnsharedPolicy(ActorCriticPolicy):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, "share_features_extractor": False})


@pytest.mark.parametrize(
    ("policy", "env"),
    [
        ("MlpPolicy", Walk),
        (UnsharedPolicy, Walk),
        (
            "CnnPolicy",
            lambda: FakeImageEnv(screen_height=36, screen_width=36, n_channels=1),
        ),
        ("MultiInputPolicy", lambda: SimpleMultiObsEnv(random_start=False)),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_twin_critics_train_save_and_take_the_smaller_mean(policy, env, shared, tmp_path):
    kwargs = dict(share_features_extractor=shared) if isinstance(policy, str) else {}

    model = DistributionalPPO(
        policy,
        DummyVecEnv([env]),
        use_twin_critics=True,
        clip_range_vf=0.5,
        value_target="sr_lambda",
        policy_kwargs=dict(n_quantiles=4, **kwargs),
        **UNEVEN,
    )

    model.learn(64)
    observations = model.policy.obs_to_tensor(model.get_env().reset())[0]
    with torch.no_grad():
        both = model.policy.value_net.to_raw(model.policy.quantiles_of_loss(observations)).reshape(-1, 2, 4)

    assert not torch.equal(both[:, 0], both[:, 1])

    with torch.no_grad():
        values = model.policy.predict_values(observations)
        quantiles = model.policy.predict_quantiles(observations)

    assert torch.allclose(values[:, 0], both.mean(dim=2).min(dim=1).values, atol=1e-6)
    assert torch.allclose(quantiles.mean(dim=1), values[:, 0], atol=1e-6)

    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model")
    assert loaded.use_twin_critics

    with torch.no_grad():
        assert torch.equal(loaded.policy.predict_quantiles(observations), quantiles)

    for name in (
        "value_loss",
        "variance_scaling_weight",
        "quantile_variance_mean",
    ):
        each = [model.logger.name_to_value[f"train/{name}_{i}"] for i in (1, 2)]
        assert model.logger.name_to_value[f"train/{name}"] == pytest.approx(np.mean(each), rel=1e-5)


def test_the_critics_begin_differently_whatever_initialises_them():
    for ortho_init in (True, False):
        policy = make_walking(use_twin_critics=True, policy_kwargs=dict(ortho_init=ortho_init)).policy
        for module in (
            policy.mlp_extractor.value_net.first,
            policy.value_net.net,
        ):
            second = (
                policy.mlp_extractor.value_net.second if module is not policy.value_net.net else policy.value_net.second
            )
            pairs = zip(module.parameters(), second.parameters(), strict=True)
            assert not any(torch.equal(p, q) for p, q in pairs if p.dim() > 1)


def test_twin_critics_of_a_policy_without_a_value_network_are_refused():
    class Bare(nn.Module):
        latent_dim_pi = latent_dim_vf = 3

        def forward(self, features):
            return features, features

    class BarePolicy(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            self.mlp_extractor = Bare()

    class NonePolicy(ActorCriticPolicy):
        def _build(self, lr_schedule):
            self.value_net = nn.Linear(3, 1)

    for policy in (BarePolicy, NonePolicy):
        with pytest.raises(ValueError, match="use_twin_critics needs an mlp_extractor"):
            DistributionalPPO(policy, DummyVecEnv([Walk]), use_twin_critics=True)


def test_an_mlp_extractor_assigned_twice_is_doubled_once():
    class AgainPolicy(ActorCriticPolicy):
        def _build_mlp_extractor(self):
            super()._build_mlp_extractor()
            self.mlp_extractor = self.mlp_extractor.to(self.device)

    DistributionalPPO(AgainPolicy, DummyVecEnv([Walk]), use_twin_critics=True, **UNEVEN).learn(32)


def test_twin_critics_are_a_flag_of_the_algorithm(tmp_path):
    kwargs = dict(n_quantiles=4)
    twin = make_walking(use_twin_critics=True, policy_kwargs=kwargs)
    single = make_walking(policy_kwargs=kwargs)
    twin.save(tmp_path / "twin")

    assert DistributionalPPO.load(tmp_path / "twin", policy_kwargs=kwargs).policy.n_critics == 2
    with pytest.raises(ValueError, match="use_twin_critics=True: they do not fit"):
        single.set_parameters(twin.get_parameters())

    with pytest.raises(ValueError, match="use_twin_critics=True: they do not fit"):
        DistributionalPPO.load(tmp_path / "twin", use_twin_critics=False)

    with pytest.raises(ValueError, match="set use_twin_critics instead"):
        make_walking(policy_kwargs=dict(n_critics=2))


def test_twin_critics_are_loaded_by_their_own_class_only(tmp_path):
    model = DistributionalPPO(PlainPolicy, RandomEnv(), use_twin_critics=True, **SHORT)
    model.policy.save(tmp_path / "policy")
    loaded = quantile_policy(PlainPolicy).load(tmp_path / "policy", device="cpu")

    assert torch.equal(loaded.predict_quantiles(OBS), model.policy.predict_quantiles(OBS))
    with pytest.raises(TypeError, match="n_quantiles"):
        PlainPolicy.load(tmp_path / "policy", device="cpu")


def test_the_second_critic_leaves_the_actor_as_ppo_draws_it():
    """Oracle: SB3's PPO of the same seed. The two critics differ, but for their shapes."""
    theirs = PPO("MlpPolicy", RandomEnv(), **SHORT).policy
    ours = DistributionalPPO("MlpPolicy", RandomEnv(), use_twin_critics=True, **SHORT).policy
    assert torch.equal(ours.action_net.weight, theirs.action_net.weight)

    first = ours.mlp_extractor.value_net.first
    second = ours.mlp_extractor.value_net.second

    for single, another, expected in zip(
        first.parameters(),
        second.parameters(),
        theirs.mlp_extractor.value_net.parameters(),
        strict=True,
    ):
        assert torch.equal(single, expected)
        if single.dim() == 2:
            assert not torch.equal(single, another)
            identity = torch.eye(min(another.shape)) * 2  # orthogonal, of gain sqrt(2), as SB3 draws
            product = another.T @ another if another.shape[0] >= another.shape[1] else another @ another.T
            torch.testing.assert_close(product, identity, atol=1e-5, rtol=0)

    heads = [layer.weight[0] for layer in ours.value_net.last_layers]

    assert [head.norm().item() for head in heads] == pytest.approx([1.0, 1.0])  # gain 1
    assert not torch.equal(*heads)


class GroupedPolicy(ActorCriticPolicy):
    """A user's policy whose optimizer decays the critic's head and leaves the log of its own scale out."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        head = list(self.value_net.parameters())
        rest = [p for p in self.parameters() if id(p) not in set(map(id, head))]
        groups = [
            {"params": head, "weight_decay": 0.5},
            {"params": rest, "weight_decay": 0.0},
        ]
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
