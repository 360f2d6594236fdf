"""
``DistributionalPPO`` in the place of Stable-Baselines3's ``PPO``: the same call, a critic that answers with quantiles.

    python examples/drop_in.py          about 10 seconds
"""

from __future__ import annotations

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from distributional_ppo import DistributionalPPO

STEPS = 4_096


def main() -> None:
    """Train both on CartPole with the same arguments, then ask the quantile critic about a state."""
    env = make_vec_env("CartPole-v1", seed=0)
    for algorithm in (PPO, DistributionalPPO):
        model = algorithm("MlpPolicy", env, learning_rate=1e-3, n_steps=512, seed=0, device="cpu").learn(STEPS)
        mean, std = evaluate_policy(model, env, n_eval_episodes=10)
        print(f"{algorithm.__name__}: mean return {mean:.0f}, standard deviation {std:.0f} over 10 episodes")

    assert isinstance(model, DistributionalPPO)
    obs = env.reset()
    with torch.no_grad():
        quantiles = model.policy.predict_quantiles(obs)[0]
        worst_tenth = model.policy.predict_cvar(obs, 0.1)[0]
    print(f"{len(quantiles)} quantiles of the return from here: {quantiles[0]:.1f} to {quantiles[-1]:.1f}")
    print(f"their mean, the value of the state: {quantiles.mean():.1f}")
    print(f"mean of the worst tenth: {worst_tenth:.1f}")

    model.save("drop_in")
    without = DistributionalPPO.load("drop_in", use_variance_gradient_scaling=False)
    print(f"loaded with scaling {'on' if without.use_variance_gradient_scaling else 'off'}")


if __name__ == "__main__":
    main()
