"""The parts of a quantile critic. They know nothing of PPO's loop; ``distributional_ppo`` puts them together."""
