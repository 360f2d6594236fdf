"""Parts of a quantile critic. They do not depend on PPO's loop; ``distributional_ppo`` combines them."""
