"""``compile=True``. Oracle: the same class without it, on the same rollout."""

import copy
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from builders import NormalisingExtractor, RandomEnv, needs_compiler, train_alike
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from distributional_ppo import DistributionalPPO
from quantile_critic.compiled import _compile
from upgd import AdaptiveUPGD

SMALL = dict(n_steps=24, batch_size=20, n_epochs=2, seed=0, device="cpu", learning_rate=1e-2)  # 48 = 20 + 20 + 8
NET = dict(net_arch=[8], n_quantiles=4)

EVERYTHING = dict(
    normalize_returns=True,
    use_popart=True,
    clip_range_vf=0.5,
    clip_range_vf_units="std",
    distributional_vf_clip_mode="mean_and_variance",
    use_twin_critics=True,
    variance_scaling_mode="dsac_t",
    value_target="sr_lambda",
    ent_coef=0.01,
)


class CustomBuffer(RolloutBuffer):
    """Of a class that may do anything in ``get``, such as another order of the numbers in memory, now and then."""

    transposes = False

    def get(self, batch_size=None):
        for data in super().get(batch_size):
            if CustomBuffer.transposes:
                data = data._replace(observations=data.observations.t().contiguous().t())
            yield data
            CustomBuffer.transposes = not CustomBuffer.transposes


class Counting(torch.optim.Adam):
    """A step that does more than arithmetic."""

    steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        Counting.steps += 1
        return super().step(closure)


def make(compile, env="CartPole-v1", policy_kwargs=None, **kwargs):
    flags = {**SMALL, **kwargs, "policy_kwargs": {**NET, **(policy_kwargs or {})}}
    return DistributionalPPO("MlpPolicy", make_vec_env(env, 2, seed=0), compile=compile, **flags)


def functions(model):
    step = model._policy_step
    update = model._update
    return {function.name: function for function in (step.function, update.whole, update.gradients_only)}


def is_compiled(model, *names):
    return {name for name, function in functions(model).items() if function.call is not None} == set(names)


@pytest.fixture(autouse=True)
def unoptimised(monkeypatch):
    """-O3 takes a quarter of these tests' time. Tests whose graph is the same find it on disk."""
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")


@needs_compiler
def test_an_update_gives_the_eager_numbers_and_follows_changed_flags():
    eager = make(False)
    compiled = make(True)
    start = copy.deepcopy(compiled.policy.state_dict())

    assert train_alike(eager, compiled) < 1e-5
    assert is_compiled(compiled, "update")
    assert max(float((v - start[k]).abs().max()) for k, v in compiled.policy.state_dict().items()) > 1e-2

    for name, value in eager.logger.name_to_value.items():
        if name.startswith("train/"):
            assert compiled.logger.name_to_value[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name

    assert compiled.policy.optimizer.param_groups[0]["lr"] == 1e-2  # a number again

    # What the graph has read may change between updates, such as a coefficient by a callback.
    for model in (eager, compiled):
        model.ent_coef = 0.5
        model.lr_schedule = lambda _: 3e-3

    before = functions(compiled)["update"].builds

    assert train_alike(eager, compiled, updates=1) < 1e-5
    assert functions(compiled)["update"].builds == before + 1

    for model in (eager, compiled):  # another size of minibatches
        model.batch_size = 16

    assert train_alike(eager, compiled, updates=1) < 1e-5

    before += 1
    # New parameters and optimizer state, in place of those compiled for, without a new compilation.
    parameters = copy.deepcopy(eager.get_parameters())
    train_alike(eager, compiled, updates=1)
    for model in (eager, compiled):
        model.set_parameters(parameters)

    assert train_alike(eager, compiled, updates=1) < 1e-5
    assert functions(compiled)["update"].builds == before + 1


@needs_compiler
def test_all_features_of_the_value_path_with_a_kl_limit(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_DEBUG_COMPILE")  # optimised, as users compile
    flags = dict(env="Pendulum-v1", target_kl=0.05, n_epochs=4, **EVERYTHING)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        eager = make(False, **flags)
        compiled = make(True, **flags)
        assert train_alike(eager, compiled, updates=3) < 2e-4

    assert is_compiled(compiled, "gradients")
    assert eager.logger.name_to_value["train/n_updates"] == compiled.logger.name_to_value["train/n_updates"]


@needs_compiler
@pytest.mark.parametrize(
    ("policy", "env", "kwargs"),
    [
        (
            "MlpPolicy",
            lambda: gym.make("Pendulum-v1"),
            dict(use_sde=True, sde_sample_freq=4),
        ),
        (
            "MlpPolicy",
            lambda: RandomEnv(action_space=spaces.MultiDiscrete([2, 3])),
            dict(policy_kwargs=dict(features_extractor_class=NormalisingExtractor, **NET)),  # with batch norm
        ),
        (
            "CnnPolicy",
            lambda: FakeImageEnv(screen_height=40, screen_width=40, n_channels=1, discrete=True),
            # Its images differ from run to run, and Adam makes a large step of the rounding of a gradient near 0.
            dict(policy_kwargs=dict(optimizer_class=torch.optim.SGD)),
        ),
        (
            "MultiInputPolicy",
            lambda: RandomEnv(
                spaces.Dict(
                    speed=spaces.Box(-1, 1, (2,)),
                    gear=spaces.Discrete(3),
                    lamps=spaces.MultiDiscrete([2, 3]),
                )
            ),
            dict(policy_kwargs=NET),
        ),
    ],
    ids=["gSDE", "MultiDiscrete, batch norm", "image", "dict"],
)
def test_policies_and_spaces(policy, env, kwargs):
    settings = {**SMALL, "batch_size": 16, **kwargs}
    models = [
        DistributionalPPO(policy, DummyVecEnv([env, env]), compile=compile, **settings) for compile in (False, True)
    ]

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        assert train_alike(*models) < 5e-5
        models[1].learn(48, reset_num_timesteps=False)

    assert is_compiled(models[1], "update", "policy_step")
    assert [function.builds for function in functions(models[1]).values()] == [
        1,
        1,
        0,
    ]


@needs_compiler
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW])
def test_parameters_without_a_gradient_stay_at_a_learning_rate_of_0(optimizer):
    """As at the end of a linear schedule. A column of zeros gives no gradient; 0 / 0 of Adam's traced step was NaN."""

    class Blind(gym.ObservationWrapper):
        def observation(self, observation):
            return observation * np.array([1, 1, 1, 0], np.float32)

    def make_blind(compile):
        env = make_vec_env("CartPole-v1", 2, seed=0, wrapper_class=Blind)
        kwargs = dict(optimizer_class=optimizer, **NET)
        return DistributionalPPO("MlpPolicy", env, compile=compile, policy_kwargs=kwargs, **SMALL)

    eager = make_blind(False)
    compiled = make_blind(True)

    assert train_alike(eager, compiled) < 1e-5
    assert is_compiled(compiled, "update")

    before = copy.deepcopy(compiled.policy.state_dict())
    for model in (eager, compiled):
        model.lr_schedule = lambda _: 0.0

    assert train_alike(eager, compiled, updates=1) < 1e-5

    for name, parameter in compiled.policy.named_parameters():
        assert torch.equal(parameter, before[name]), name

    for model in (eager, compiled):
        model.lr_schedule = lambda _: 1e-2

    assert train_alike(eager, compiled, updates=1) < 1e-5
    assert is_compiled(compiled, "update")


@needs_compiler
def test_custom_buffer_and_upgd_train_as_in_eager_code():
    flags = dict(rollout_buffer_class=CustomBuffer, clip_range_vf=0.2, batch_size=16)
    optimizer = dict(optimizer_class=AdaptiveUPGD, optimizer_kwargs=dict(sigma=0.0))
    eager, compiled = (make(compile, policy_kwargs=optimizer, **flags) for compile in (False, True))

    with pytest.warns(UserWarning, match="the step of AdaptiveUPGD is not compiled"):
        assert train_alike(eager, compiled) < 1e-5
    assert is_compiled(compiled, "gradients")


@needs_compiler
def test_a_step_that_cannot_be_compiled_stays_eager_and_warns_once():
    Counting.steps = 0
    compiled = make(True, policy_kwargs=dict(optimizer_class=Counting), batch_size=16).learn(48)
    with pytest.warns(UserWarning, match="the step of Counting is not compiled"):
        compiled.learn(48, reset_num_timesteps=False)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="compile=True")
        compiled.learn(48, reset_num_timesteps=False)

    assert is_compiled(compiled, "policy_step", "gradients")
    assert Counting.steps == 3 * 2 * 3


@needs_compiler
def test_without_a_compiler_a_warning_says_so_and_training_is_eager():
    absent = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with absent, pytest.warns(UserWarning, match=r"is not compiled.*Install g\+\+"):
        compiled = make(True, policy_kwargs=dict(net_arch=[7])).learn(96)
    eager = make(False, policy_kwargs=dict(net_arch=[7])).learn(96)
    for a, b in zip(
        eager.policy.state_dict().values(),
        compiled.policy.state_dict().values(),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6)


@needs_compiler
def test_rollouts_save_and_pickle(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_DEBUG_COMPILE")
    model = make(True).learn(96)
    buffer = model.rollout_buffer
    policy = model.policy

    assert policy.compiled_step is None

    with torch.no_grad():
        _ = model.collect_rollouts(model.env, model._init_callback(None), buffer, 24)
        observations = torch.as_tensor(buffer.observations).flatten(0, 1)
        values, log_prob, _ = policy.evaluate_actions(observations, torch.as_tensor(buffer.actions).flatten())

    assert buffer.values.flatten() == pytest.approx(values.flatten().numpy(), abs=1e-4)
    assert buffer.log_probs.flatten() == pytest.approx(log_prob.numpy(), abs=1e-5)
    assert 0 < buffer.actions.mean() < 1

    model.save(tmp_path / "model")
    loaded = DistributionalPPO.load(tmp_path / "model")
    assert loaded.compile

    for copied in (
        loaded,
        pickle.loads(pickle.dumps(policy)),
        copy.deepcopy(policy),
    ):
        copied_policy = getattr(copied, "policy", copied)
        assert torch.equal(
            copied_policy.predict_values(observations),
            policy.predict_values(observations),
        )


@needs_compiler
def test_a_graph_compiled_before_is_read_from_disk_and_a_new_graph_is_not():
    policy = make(False).policy
    x = torch.arange(3.0)
    results = torch._dynamo.utils.counters["aot_autograd"]
    new, newer = np.random.default_rng().uniform(size=2).tolist()  # of no seed: never compiled before

    for factor, hits in ((new, 0), (newer, 0), (new, 1)):
        results.clear()
        call = _compile(lambda tensor, factor=factor: factor * tensor.sin(), (x,), policy)
        torch.testing.assert_close(call(x), factor * x.sin())
        assert results["autograd_cache_hit"] == hits


@needs_compiler
def test_callbacks_use_and_copy_the_policy():
    records = []
    is_this_steps = []

    class User(BaseCallback):
        def _on_step(self):
            """Oracle: SB3's `get_distribution` for the observations that this step's actions are for."""
            ours = self.model.policy.action_dist.distribution

            if self.n_calls > 1:  # before, `new_obs` is not yet there
                expected = copy.deepcopy(self.model.policy).get_distribution(torch.as_tensor(self.before)).distribution
                is_this_steps.append(torch.allclose(ours.logits, expected.logits, atol=1e-5))

            self.before = self.locals["new_obs"]
            return True

        def _on_rollout_end(self):
            policy = self.model.policy
            observations = torch.rand(5, 4)
            transposed = observations[:2].t().contiguous().t()

            for ours in (
                observations[:1],
                observations[:2],
                observations,
                transposed,
            ):  # the second as in the rollout
                with torch.no_grad():
                    values = policy(ours)[1]
                records.append(torch.allclose(values, policy.predict_values(ours), atol=1e-5))

            records.append(copy.deepcopy(policy).compiled_step is None)
            records.append(pickle.loads(pickle.dumps(policy)).compiled_step is None)
            records.append(policy(observations[:2])[2].requires_grad)  # last: its graph could not be copied

    make(True).learn(48, User())

    assert records == [True] * 7
    assert is_this_steps == [True] * 23


@needs_compiler
def test_a_layer_frozen_in_place_of_another_stays():
    eager = make(False)
    compiled = make(True)

    for frozen, free in (("policy_net", "value_net"), ("value_net", "policy_net")):
        for model in (eager, compiled):
            getattr(model.policy.mlp_extractor, frozen).requires_grad_(False)
            getattr(model.policy.mlp_extractor, free).requires_grad_(True)

        before = copy.deepcopy(getattr(compiled.policy.mlp_extractor, frozen).state_dict())
        assert train_alike(eager, compiled) < 1e-5
        after = getattr(compiled.policy.mlp_extractor, frozen).state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


@needs_compiler
def test_a_hook_on_accumulated_gradients_keeps_the_update_eager():
    model = make(True).learn(48)
    calls = []
    model.policy.action_net.bias.register_post_accumulate_grad_hook(lambda parameter: calls.append(1))

    with pytest.warns(UserWarning, match="a parameter has a hook"):
        model.learn(48)
    assert len(calls) == 2 * 3


@needs_compiler
def test_hooks_of_modules_are_called_as_often_as_in_eager_runs():
    counts = []

    for compile in (False, True):
        model = make(compile)
        calls = []
        model.policy.mlp_extractor.register_forward_hook(lambda *_, calls=calls: calls.append(1))

        if compile:
            with pytest.warns(
                UserWarning,
                match=r"compile=True: the policy's step in the rollout stays eager.*a hook",
            ):
                model.learn(48)

            with pytest.warns(
                UserWarning,
                match=r"compile=True: the update stays eager: a module of the policy has",
            ):
                model.learn(48)

            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="compile=True")
                model.learn(48)
        else:
            for _ in range(3):
                model.learn(48)

        assert is_compiled(model) if compile else True
        counts.append(len(calls))

    assert counts[0] == counts[1] > 3 * 24


def test_compile_is_a_flag():
    with pytest.raises(TypeError, match="compile must be True or False"):
        make("yes")


def test_an_older_torch_is_named(monkeypatch):
    monkeypatch.setattr(torch._dynamo, "config", object())
    with pytest.warns(
        UserWarning,
        match=rf"stays eager.*torch {torch.__version__[:4]}.* lacks .*torch 2\.13 has it",
    ):
        model = make(True).learn(96)
    assert is_compiled(model)
