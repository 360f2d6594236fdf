"""What an update logs, and when it is written. Oracles: SB3's logger, numpy, a run's rows."""

import numpy as np
import pytest
from builders import SHORT, ApartPolicy, RandomEnv, make_random
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import KVWriter, Logger, configure

from distributional_ppo import DistributionalPPO
from quantile_critic.log import reduced


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", 2.0),  # the last
        ("value_loss", 3.0),  # (1 + 6 + 2) / 3
        ("variance_scaling_weight_min", 1.0),
        ("variance_scaling_weight_max_2", 6.0),
        (
            "my_weight_minutes",
            3.0,
        ),  # a user's own, whose name has "weight_min" in it
    ],
)
def test_a_metric_is_reduced_by_its_whole_name(name, expected):
    assert reduced(name, np.array([1.0, 6.0, 2.0], dtype=np.float32)) == expected


EXPECTED = [
    "approx_kl",
    "clip_fraction",
    "clip_range",
    "entropy_loss",
    "explained_variance",
    "grad_norm",
    "learning_rate",
    "loss",
    "policy_gradient_loss",
    "quantile_calibration_error",
    "quantile_variance_mean",
    "quantile_variance_std",
    "value_loss",
    "value_loss_std",
    "variance_scaling_clamped",
    "variance_scaling_weight",
    "variance_scaling_weight_max",
    "variance_scaling_weight_min",
    "vf_coef_effective",
]


def test_a_thousand_steps_with_defaults_write_every_scalar(tmp_path, read_scalars):
    DistributionalPPO("MlpPolicy", "CartPole-v1", tensorboard_log=str(tmp_path)).learn(1000)
    scalars = read_scalars(tmp_path)
    assert {tag for tag in scalars if tag.startswith("train/")} == {f"train/{name}" for name in EXPECTED}
    assert all(np.isfinite(point.value) for points in scalars.values() for point in points)


def test_every_update_is_written_once_at_the_step_of_its_rollout(tmp_path, read_scalars):
    model = DistributionalPPO(ApartPolicy, "Pendulum-v1", tensorboard_log=str(tmp_path), **SHORT)
    model.learn(256)
    scalars = read_scalars(tmp_path)

    assert [point.step for point in scalars["train/value_loss"]] == [
        64,
        128,
        192,
        256,
    ]
    assert {"train/std"} | {f"train/{name}" for name in EXPECTED} <= scalars.keys()

    weights = [point.value for point in scalars["train/variance_scaling_weight"]]
    variances = [point.value for point in scalars["train/quantile_variance_mean"]]
    assert all(0.1 <= weight <= 10.0 for weight in weights)
    assert weights[0] == pytest.approx(variances[0])  # not clamped

    effective = [point.value for point in scalars["train/vf_coef_effective"]]
    assert effective == pytest.approx([model.vf_coef * weight for weight in weights])


def test_log_interval_and_dump_logs_work_as_in_ppo(tmp_path):
    model = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(5 * 64, log_interval=2)
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    updates = [row.split(",")[rows[0].split(",").index("train/n_updates")] for row in rows[1:]]

    assert updates == ["4", "8", "10"]  # iterations 2 and 4, and the last one
    assert model.logger.name_to_value["train/n_updates"] == model._n_updates == 10

    model.dump_logs()  # as callbacks do
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 1 + 4


def test_callbacks_read_the_last_update_and_their_dumps_do_not_write_it_again(tmp_path, read_scalars):
    records = []

    class Reader(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            records.append("train/loss" in self.logger.name_to_value)
            self.logger.record("eval/marker", 1.0)
            self.logger.dump(self.num_timesteps)

        def _on_training_end(self):
            records.append("train/loss" in self.logger.name_to_value)

    DistributionalPPO("MlpPolicy", RandomEnv(), tensorboard_log=str(tmp_path), **SHORT).learn(128, Reader())
    scalars = read_scalars(tmp_path)

    assert [point.step for point in scalars["train/loss"]] == [64, 128]
    assert [point.step for point in scalars["eval/marker"]] == [64, 128]
    assert records[-1]


def test_scalars_that_are_undefined_are_left_out():
    class Silent(RandomEnv):
        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, 0.0, terminated, truncated, info

    model = DistributionalPPO("MlpPolicy", Silent(), normalize_returns=True, **SHORT).learn(64)
    scalars = model.logger.name_to_value

    assert "train/explained_variance" not in scalars
    assert all(np.isfinite(value) for value in scalars.values())


@pytest.mark.parametrize("is_own", [False, True])
def test_a_train_that_calls_no_super_leaves_the_rows_of_the_log(tmp_path, is_own):
    class Late(DistributionalPPO):
        def train(self):
            self.logger.record("train/own", 1.0)
            if not is_own and self.num_timesteps > 128:
                super().train()

    model = Late("MlpPolicy", make_vec_env(RandomEnv, seed=0), **SHORT)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4 * 64)
    table = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)

    assert table["timetotal_timesteps"].tolist() == [64, 128, 192, 256]
    assert np.isfinite(table["rolloutep_rew_mean"]).all()
    assert table["trainown"].tolist() == [1.0] * 4


def test_dump_logs_writes_at_once(tmp_path):
    model = DistributionalPPO(
        "MlpPolicy",
        RandomEnv(),
        n_steps=16,
        batch_size=16,
        n_epochs=1,
        device="cpu",
    )
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(16)
    model.logger.record("mine", 7.0)
    model.dump_logs()

    assert "mine" in (tmp_path / "progress.csv").read_text()


class Foreign(KVWriter):
    """A writer that is not SB3's and knows only its own name, as that for MLflow in SB3's documentation."""

    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        excluded = {key for key, names in key_excluded.items() if names is not None and "foreign" in names}
        self.rows.append(
            (
                step,
                {key: value for key, value in key_values.items() if key not in excluded},
            )
        )

    def close(self):
        pass


@pytest.mark.parametrize("log_interval", [1, 2, 3])
def test_every_value_of_an_update_is_written_once_by_any_writer(log_interval):
    class Dumping(BaseCallback):
        def _on_step(self):
            if self.n_calls % 20 == 0:
                self.logger.record("eval/own", 1.0)
                self.logger.dump(self.num_timesteps)

            return True

    model = make_random(n_envs=1)
    writer = Foreign()
    model.set_logger(Logger(None, [writer]))
    model.learn(5 * 64, Dumping(), log_interval=log_interval)
    losses = [row["train/loss"] for _, row in writer.rows if "train/loss" in row]

    assert len(losses) == len(set(losses)) == 5  # in between by the callback, as in PPO

    if log_interval == 1:
        assert [step for step, row in writer.rows if "train/loss" in row] == [
            64,
            128,
            192,
            256,
            320,
        ]

    assert sum("eval/own" in row for _, row in writer.rows) == 16


def test_when_training_ends_callbacks_find_the_last_update_written():
    class AtTheEnd(BaseCallback):
        def _on_step(self):
            return True

        def _on_training_end(self):
            self.steps = [step for step, row in writer.rows if "train/loss" in row]

    model = make_random(n_envs=1)
    writer = Foreign()
    callback = AtTheEnd()
    model.set_logger(Logger(None, [writer]))
    model.learn(2 * 64, callback)

    assert callback.steps == [64, 128]  # after 64 and 128 steps of one environment
