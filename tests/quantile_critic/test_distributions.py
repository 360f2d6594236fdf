"""The action distributions. Oracle: SB3's."""

import pytest
import torch
from builders import SHORT, RandomEnv, needs_compiler
from stable_baselines3 import PPO

from distributional_ppo import DistributionalPPO
from quantile_critic.distributions import (
    LeanCategoricalDistribution,
    LeanDiagGaussianDistribution,
)


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

    ours = given(Own)
    plain = given(base)
    actions = torch.tensor([[1.0, 0.0, 2.0]])
    actions = torch.tensor([1]) if base is LeanCategoricalDistribution else actions

    assert torch.equal(ours.log_prob(actions), plain.log_prob(actions) - 1.0)
    assert torch.equal(ours.entropy(), 2 * plain.entropy())
    assert ours.sample().shape == plain.mode().shape

    theirs = given(base.__mro__[1])
    assert torch.equal(theirs.log_prob(actions), plain.log_prob(actions))
    assert torch.equal(theirs.entropy(), plain.entropy())


@pytest.mark.parametrize("actions", [torch.arange(2), torch.tensor(1), torch.tensor([[0], [1]])])
def test_log_probabilities_broadcast_as_sb3s(actions):
    theirs, ours = (model("MlpPolicy", RandomEnv(), **SHORT).policy for model in (PPO, DistributionalPPO))
    first = torch.zeros(1, 3)
    expected = theirs.get_distribution(first).log_prob(actions)

    torch.testing.assert_close(ours.get_distribution(first).log_prob(actions), expected)


@needs_compiler
def test_compiled_actions_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, -1.0, -50.0]]).expand(40_000, 4)
    distribution = LeanCategoricalDistribution(4)
    sample = torch.compile(
        lambda x: distribution.proba_distribution(x).sample(),
        backend="eager",
    )
    torch.manual_seed(0)
    shares = torch.bincount(sample(logits), minlength=4) / 40_000

    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.01)  # 4 standard errors
