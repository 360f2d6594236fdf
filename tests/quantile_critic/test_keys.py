"""
``compile=True`` after a change that compiled code reads. Oracle: the same class without it, on the same rollout.

The graphs run as they are traced, without machine code of their own: a change is seen or missed before that.

Cases of one table share a pair of models, whose changes add up: each case compiles once. A change that the pair misses
fails its case, as both models go on to learn from the same rollouts.
"""

import functools
import re
import types

import numpy as np
import pytest
import torch
from builders import (
    SHORT,
    RandomEnv,
    assert_alike_after,
    assert_rollout_is_eager,
    eager_and_compiled,
    make_one_update,
    train_alike,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import distributional_ppo
from distributional_ppo import DistributionalPPO
from quantile_critic import losses
from quantile_critic.keys import difference, key_of

pytestmark = pytest.mark.usefixtures("compiler", "no_machine_code")
FACTOR = 1.0
FACTORS = [1.0]
FACTORS_OF_EXTRACTOR = [1.0]


def scaled_by(*reads):
    """A user's class, whose weight is multiplied by the mean of what each of ``reads`` reads of the model."""

    class Base(DistributionalPPO):
        factor_of_base = 1.0
        hidden_factor = 1.0

        def factor_by_method(self):
            return 1.0

        def factor_of_instance(self):
            return 1.0

        @property
        def replaced_factor(self):
            return 1.0

    class Scaled(Base):
        factor_of_class = 1.0
        factor_by_type = 1.0

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.helper = types.SimpleNamespace(helpers=[Helper()])
            self.nested = types.SimpleNamespace(inner=types.SimpleNamespace(factor=1.0, name="calm"))
            self.table = {"a": {"b": [1.0, [1.0]]}}
            self.named = Named(factor=1.0)
            self.array = np.array([1.0], dtype=np.float32)
            self.tensor = torch.tensor(1.0)
            self.filled_tensor = torch.tensor(1.0)
            self.number = np.float32(1.0)
            self.partial = functools.partial(torch.mul, torch.tensor(1.0))
            self.schedule = lambda progress: 1.0
            self.slots = Slots(1.0)
            self._factor = 1.0

        @property
        def factor(self):
            return self._factor

        def variance_weight(self, variance, critic=0):
            factors = [read(self) for read in reads]
            return super().variance_weight(variance, critic) * (sum(factors) / len(factors))

    return Scaled


class BaseOfHelper:
    def factor(self):
        return 1.0


class Helper(BaseOfHelper):
    """An object of the user's that the model holds."""


class Named(dict):
    """A dict of a class of its own."""


class Slots:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor


def by_function():
    return by_function.factor


by_function.factor = 1.0


def by_default(factor=1.0):
    return factor


def closure():
    factor = 1.0

    def set_factor(value):
        nonlocal factor
        factor = value

    return (lambda: factor), set_factor


CLOSURE, SET_CLOSURE = closure()


def set_global(value):
    global FACTOR
    FACTOR = value


READS = {
    "remaining progress": (
        lambda m: 1 + m._current_progress_remaining,
        lambda m: setattr(m, "_current_progress_remaining", 0.25),
    ),
    "a coefficient read directly": (
        lambda m: 1 + m.vf_coef,
        lambda m: setattr(m, "vf_coef", 3.0),
    ),
    "a nested object": (
        lambda m: m.nested.inner.factor,
        lambda m: setattr(m.nested.inner, "factor", 3.0),
    ),
    "a nested list": (
        lambda m: m.table["a"]["b"][1][0],
        lambda m: m.table["a"]["b"][1].__setitem__(0, 3.0),
    ),
    "a key that is missing": (
        lambda m: m.table.get("later", 1.0),
        lambda m: m.table.__setitem__("later", 3.0),
    ),
    "a dict of another class": (
        lambda m: m.named["factor"],
        lambda m: m.named.__setitem__("factor", 3.0),
    ),
    "an array that is replaced": (
        lambda m: torch.as_tensor(m.array).sum(),
        lambda m: setattr(m, "array", np.array([3.0], dtype=np.float32)),
    ),
    "a tensor that is replaced": (
        lambda m: m.tensor,
        lambda m: setattr(m, "tensor", torch.tensor(3.0)),
    ),
    "a tensor that is filled": (
        lambda m: m.filled_tensor,
        lambda m: m.filled_tensor.fill_(3.0),
    ),
    "a number of numpy": (
        lambda m: float(m.number),
        lambda m: setattr(m, "number", np.float32(3.0)),
    ),
    "slots": (lambda m: m.slots.factor, lambda m: setattr(m.slots, "factor", 3.0)),
    "a property": (lambda m: m.factor, lambda m: setattr(m, "_factor", 3.0)),
    "a property that is replaced": (
        lambda m: m.replaced_factor,
        lambda m: setattr(type(m), "replaced_factor", property(lambda self: 3.0)),
    ),
    "functools.partial": (
        lambda m: m.partial(1.0),
        lambda m: setattr(m, "partial", functools.partial(torch.mul, torch.tensor(3.0))),
    ),
    "a schedule": (
        lambda m: m.schedule(1.0),
        lambda m: setattr(m, "schedule", lambda progress: 3.0),
    ),
    "a class attribute": (
        lambda m: m.factor_of_class,
        lambda m: setattr(type(m), "factor_of_class", 3.0),
    ),
    "a class attribute by type": (
        lambda m: type(m).factor_by_type,
        lambda m: setattr(type(m), "factor_by_type", 3.0),
    ),
    "a parent's class attribute": (
        lambda m: m.factor_of_base,
        lambda m: setattr(type(m).__bases__[0], "factor_of_base", 3.0),
    ),
    "an attribute that hides a parent's": (
        lambda m: m.hidden_factor,
        lambda m: setattr(type(m), "hidden_factor", 3.0),
    ),
    "a method that is replaced": (
        lambda m: m.factor_by_method(),
        lambda m: setattr(type(m).__bases__[0], "factor_by_method", lambda self: 3.0),
    ),
    "an instance's method": (
        lambda m: m.factor_of_instance(),
        lambda m: setattr(m, "factor_of_instance", lambda: 3.0),
    ),
    "a method of a helper's class": (
        lambda m: m.helper.helpers[0].factor(),
        lambda m: setattr(BaseOfHelper, "factor", lambda self: 3.0),
    ),
    "a module global": (lambda m: FACTOR, lambda m: set_global(3.0)),
    "a module-level list": (
        lambda m: sum(FACTORS),
        lambda m: FACTORS.__setitem__(0, 3.0),
    ),
    "a function's attribute": (
        lambda m: by_function(),
        lambda m: setattr(by_function, "factor", 3.0),
    ),
    "a function's default": (
        lambda m: by_default(),
        lambda m: setattr(by_default, "__defaults__", (3.0,)),
    ),
    "a closure": (lambda m: CLOSURE(), lambda m: SET_CLOSURE(3.0)),
}


@pytest.fixture(scope="module")
def models_of_reads(any_number_of_builds):
    """A pair whose weight is the mean of all that ``READS`` reads."""
    yield eager_and_compiled(scaled_by(*(read for read, _ in READS.values())))
    set_global(1.0)
    FACTORS[:] = [1.0]
    by_function.factor = 1.0
    by_default.__defaults__ = (1.0,)
    SET_CLOSURE(1.0)


@pytest.mark.parametrize("name", READS)
def test_a_change_of_anything_a_custom_loss_reads_takes_effect(name, models_of_reads):
    read, change = READS[name]
    factor = float(read(models_of_reads[1]))
    assert_alike_after(change, models_of_reads)
    assert float(read(models_of_reads[1])) != factor
    assert models_of_reads[1]._update.gradients_only.call is not None


@pytest.mark.parametrize(
    "draw",
    [
        lambda: float(np.random.rand()),  # noqa: NPY002
        lambda: torch.as_tensor(np.random.normal(size=2)).sum().float(),  # noqa: NPY002
    ],
    ids=["a number", "an array"],
)
def test_a_loss_that_draws_from_numpys_generator_stays_eager(draw):
    """Torch would draw an array from its own generator in place of numpy's."""
    eager = make_one_update(scaled_by(lambda m: 1.0 + draw()), False)
    compiled = make_one_update(scaled_by(lambda m: 1.0 + draw()), True)
    with pytest.warns(UserWarning, match="gradients is not compiled"):
        assert train_alike(eager, compiled) < 1e-5


def test_a_number_that_moves_with_every_update_takes_effect():
    """``twins`` learns two updates, the second with twice as many steps; then come a third and a fourth."""
    models = eager_and_compiled(scaled_by(lambda m: m.num_timesteps / 10))
    assert_alike_after(lambda m: None, models, updates=2)
    assert models[1]._update.gradients_only.call is not None


def test_a_counter_of_a_users_class_compiles_nothing_anew():
    """Torch's guards see its value where the loss reads it."""
    models = eager_and_compiled(scaled_by(lambda m: 1.0))
    for n in range(3):
        assert_alike_after(lambda m, n=n: setattr(type(m), "factor_of_class", float(n)), models)

    assert models[1]._update.gradients_only.builds == 1


def test_attributes_of_equal_names_in_two_modules_are_two_parts_of_the_key():
    """The key of each attribute of each module; a later module's must not stand for an earlier one's."""
    model = make_one_update(DistributionalPPO, False, policy_kwargs=dict(net_arch=dict(pi=[8], vf=[8])))
    policy = model.policy
    modules = [
        policy.mlp_extractor.policy_net[0],
        policy.mlp_extractor.value_net[0],
        policy.action_net,
    ]
    before = key_of(policy, ())
    for module in modules:
        module.factor = 1.0
    plain = key_of(policy, ())

    assert len(plain) == len(before) + 3

    for module in modules:
        module.factor = 2.0
        changed = key_of(policy, ())
        module.factor = 1.0
        (name,) = (name for name in plain if plain[name] != changed[name])
        assert name.endswith(".factor")
        assert difference(changed, plain) == f"{name} 1.0 -> 2.0"


class Extractor(BaseFeaturesExtractor):
    """A user's extractor, which reads whatever its test wants."""

    factor_of_class = 1.0

    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4)
        self.factor = 1.0
        self.config = {"layers": [{"factor": 1.0}]}
        self.register_buffer("scale", torch.ones(()), persistent=False)
        self.activation = torch.tanh

    def forward(self, observations):
        factor = (
            FACTORS_OF_EXTRACTOR[0]
            * self.factor
            * self.config["layers"][0]["factor"]
            * self.factor_of_class
            * self.scale
        )
        return self.activation(observations * factor)


POLICY_CHANGES = {
    "an attribute": lambda p: setattr(p.features_extractor, "factor", 3.0),
    "a nested configuration": lambda p: p.features_extractor.config["layers"][0].__setitem__("factor", 3.0),
    "a class attribute": lambda p: setattr(Extractor, "factor_of_class", 3.0),
    "a module-level list": lambda p: FACTORS_OF_EXTRACTOR.__setitem__(0, 3.0),
    "a buffer": lambda p: p.features_extractor.scale.fill_(3.0),
    "a function": lambda p: setattr(p.features_extractor, "activation", torch.sigmoid),
    "a method that is replaced": lambda p: setattr(Extractor, "forward", lambda self, x: torch.cos(x)),
    "an instance's method": lambda p: setattr(p.features_extractor, "forward", lambda x: torch.cos(x)),
}


@pytest.fixture(scope="module")
def models_of_extractor(any_number_of_builds):
    models = eager_and_compiled(policy_kwargs=dict(features_extractor_class=Extractor))
    assert_rollout_is_eager(models[1])

    return models


@pytest.fixture
def restored_extractor(monkeypatch):
    monkeypatch.setattr(Extractor, "factor_of_class", 1.0)
    monkeypatch.setattr(Extractor, "forward", Extractor.forward)
    yield
    FACTORS_OF_EXTRACTOR[0] = 1.0


@pytest.mark.usefixtures("restored_extractor")
@pytest.mark.parametrize("name", POLICY_CHANGES)
def test_a_change_of_anything_a_custom_extractor_reads_takes_effect_in_updates_and_rollouts(name, models_of_extractor):
    assert_alike_after(lambda model: POLICY_CHANGES[name](model.policy), models_of_extractor)
    assert_rollout_is_eager(models_of_extractor[1])


def test_a_changed_number_of_an_activation_takes_effect():
    """Torch's own modules go without guards: their numbers are in the key."""
    models = eager_and_compiled(policy_kwargs=dict(activation_fn=torch.nn.LeakyReLU))

    def change(model):
        for module in model.policy.modules():
            if isinstance(module, torch.nn.LeakyReLU):
                module.negative_slope = 0.5

    assert_rollout_is_eager(models[1])
    assert_alike_after(change, models)
    assert_rollout_is_eager(models[1])


@pytest.mark.parametrize(
    "replace",
    [
        lambda patch: patch.setattr(torch.nn.Tanh, "forward", lambda self, x: torch.cos(x)),
        lambda patch: patch.setattr(losses, "DSAC_T_BIAS", 1.0),
        lambda patch: patch.setattr(
            distributional_ppo,
            "quantile_variance",
            lambda q: q.detach().square().sum(-1),
        ),
        lambda patch: patch.setattr(
            losses.F,
            "huber_loss",
            lambda q, y, reduction, delta: (q - y).square() ** 2,
        ),
        lambda patch: patch.setattr(losses.F, "linear", lambda x, w, b=None: (x @ w.T + b).sin()),
        lambda patch: patch.setattr(torch, "clamp", lambda x, *args, **limits: x),
        lambda patch: patch.setattr(torch.Tensor, "square", lambda x: x.abs()),
        lambda patch: patch.setattr(
            DistributionalPPO,
            "_policy_loss",
            half_of(DistributionalPPO._policy_loss),
        ),
        lambda patch: patch.setattr(
            DistributionalPPO,
            "_sample_losses",
            half_of(DistributionalPPO._sample_losses),
        ),
        lambda patch: patch.setattr(DistributionalPPO, "variance_weight", lambda *_: torch.tensor(3.0)),
    ],
    ids=[
        "a module's forward",
        "a constant",
        "a function",
        "torch's loss",
        "torch's layer",
        "torch's clamp",
        "a tensor's method",
        "a method of the loss",
        "the losses of the samples",
        "the weight",
    ],
)
def test_replaced_code_takes_effect(replace, monkeypatch):
    models = eager_and_compiled(variance_scaling_mode="dsac_t", normalize_returns=True)
    assert_alike_after(lambda model: replace(monkeypatch), models)


def half_of(method):
    @functools.wraps(method)
    def halved(*args):
        loss, metrics = method(*args)
        return 0.5 * loss, metrics

    return halved


def set_flag(name, value):
    return lambda model: setattr(model, name, value)


def set_option(name, value):
    return lambda model: [group.update({name: value}) for group in model.policy.optimizer.param_groups]


# What a change switches off comes after what it would hide.
CHANGES = {
    "quantile_huber_kappa": set_flag("quantile_huber_kappa", 0.1),
    "quantile_huber_kappa of numpy": set_flag("quantile_huber_kappa", np.float32(0.2)),
    "quantile_huber_kappa_units": set_flag("quantile_huber_kappa_units", "std"),
    "gradient_clipping": set_flag("gradient_clipping", "apart"),
    "normalize_advantage": set_flag("normalize_advantage", False),
    "variance_scaling_clip_min": set_flag("variance_scaling_clip_min", 5.0),
    "variance_scaling_mode": set_flag("variance_scaling_mode", "dsac_t"),
    "distributional_vf_clip_variance_factor": set_flag("distributional_vf_clip_variance_factor", 1.01),
    "distributional_vf_clip_mode": set_flag("distributional_vf_clip_mode", "mean_only"),
    "clip_range_vf": set_flag("clip_range_vf", lambda _: 0.5),
    "clip_range": set_flag("clip_range", lambda _: 0.01),
    "ent_coef": set_flag("ent_coef", 0.1),
    "ent_coef of numpy": set_flag("ent_coef", np.float32(0.2)),
    "vf_coef": set_flag("vf_coef", 2.0),
    "max_grad_norm": set_flag("max_grad_norm", 0.01),
    "learning_rate": set_flag("lr_schedule", lambda _: 1e-3),
    "learning_rate of numpy": set_flag("lr_schedule", lambda _: np.float32(2e-3)),
    "betas": set_option("betas", (0.5, 0.9)),
    "weight_decay": set_option("weight_decay", 0.1),
    "maximize": set_option("maximize", True),
    "clip_range_vf to None": set_flag("clip_range_vf", None),
    "use_variance_gradient_scaling": set_flag("use_variance_gradient_scaling", False),
    "critic_loss": set_flag("critic_loss", "mean_and_spread"),
    "eps": set_option("eps", 0.1),
    "eps of numpy": set_option("eps", np.float32(0.2)),
}


@pytest.fixture(scope="module")
def models_of_changes(any_number_of_builds):
    """A pair whose whole update is compiled; a larger eps makes less of the rounding of gradients near 0."""
    flags = dict(clip_range_vf=0.05, distributional_vf_clip_mode="mean_and_variance")
    models = eager_and_compiled(target_kl=None, policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-4)), **flags)
    assert models[1]._update.whole.call is not None

    return models


@pytest.mark.parametrize("name", CHANGES)
def test_a_flag_or_number_that_a_callback_changes_takes_effect(name, models_of_changes):
    assert_alike_after(CHANGES[name], models_of_changes)
    assert models_of_changes[1]._update.whole.call is not None


def test_only_what_the_loss_reads_compiles_anew(capfd):
    """And the program says what it was."""
    eager, compiled = eager_and_compiled()
    capfd.readouterr()

    def count(model):
        model.my_counter = getattr(model, "my_counter", 0) + 1
        model.policy.my_counter = model.my_counter
        model.verbose = 0
        model.seed = model.my_counter
        model.learning_rate = 1e-3 * model.my_counter
        model.lr_schedule = lambda _: model.learning_rate
        model.vf_coef = 0.5 + model.my_counter

    for _ in range(3):
        assert_alike_after(count, (eager, compiled))

    assert (compiled._update.gradients_only.builds, capfd.readouterr().err) == (
        1,
        "",
    )

    compiled.quantile_huber_kappa = eager.quantile_huber_kappa = 0.5
    assert_alike_after(count, (eager, compiled))
    assert compiled._update.gradients_only.builds == 2
    assert capfd.readouterr().err == "Compiling gradients: kappa 1.0 -> 0.5\n"


def test_torch_says_why_guarded_code_is_compiled_again(capfd):
    models = eager_and_compiled(scaled_by(lambda m: 3.0 if m.nested.inner.name == "storm" else 1.0))
    capfd.readouterr()
    assert_alike_after(lambda m: setattr(m.nested.inner, "name", "storm"), models)
    assert re.fullmatch(
        r"Compiling gradients: .*nested\.inner\.name == 'calm'\n",
        capfd.readouterr().err,
    )


def test_what_compiled_code_depends_on_is_in_its_key():
    """Each of these changes what a graph of the policy computes."""
    policy = DistributionalPPO("MlpPolicy", RandomEnv(), **SHORT).policy
    obs = torch.zeros(2, 3)

    changes = [
        lambda: policy.mlp_extractor.policy_net.__setitem__(1, nn.Sigmoid()),
        lambda: setattr(policy, "normalize_images", False),
        lambda: policy.mlp_extractor.policy_net.__setitem__(3, nn.LeakyReLU()),
        lambda: setattr(policy.mlp_extractor.policy_net[3], "negative_slope", 0.5),
        lambda: setattr(policy.action_dist, "scale", 2.0),
        lambda: setattr(
            policy.action_net.weight,
            "data",
            policy.action_net.weight.data.t().contiguous().t(),
        ),
        lambda: policy.eval(),
    ]

    keys = [key_of(policy, obs)]

    for change in changes:
        change()
        keys.append(key_of(policy, obs))
        assert keys[-1] != keys[-2]

    policy.my_counter = 1  # which the class's own code does not read

    assert key_of(policy, obs) == keys[-1] == key_of(policy, torch.zeros(2, 3))

    for inputs in (
        torch.zeros(3, 3),
        torch.zeros(2, 3).double(),
        torch.zeros(3, 2).t(),
    ):
        assert key_of(policy, inputs) != keys[-1]
