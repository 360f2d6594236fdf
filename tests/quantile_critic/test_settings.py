"""What the loss reads."""

import numpy as np

from distributional_ppo import DistributionalPPO
from quantile_critic.settings import LossSettings, Scaling


def test_settings_of_the_loss_follow_the_flags_and_are_python_numbers():
    model = DistributionalPPO(
        "MlpPolicy",
        "CartPole-v1",
        n_steps=16,
        batch_size=16,
        device="cpu",
        quantile_huber_kappa=np.float32(0.5),
        ent_coef=np.float32(0.1),
    )

    assert model.loss_settings == LossSettings(
        kappa=0.5,
        kappa_in_stds=False,
        critic_loss="quantile_huber",
        normalize_advantage=True,
        scaling=Scaling("batch", 0.1, 10.0),
        clipping=None,
        has_entropy=True,
        target="gae",
        gradient_clipping="joint",
    )
    assert type(model.loss_settings.kappa) is float

    model.use_variance_gradient_scaling = False
    model.ent_coef = 0.0
    model.clip_range_vf = lambda _: 0.2
    settings = model.loss_settings.by_name()

    assert settings["scaling"] is None
    assert (
        settings["has_entropy"],
        settings["clipping.mode"],
        settings["clipping.units"],
    ) == (
        False,
        "per_quantile",
        "raw",
    )
