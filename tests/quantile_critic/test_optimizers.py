"""
Parameters and the optimizer's state between models whose optimizers differ, as PPO exchanges them.

Oracles: the moments of the first model by the names of their parameters; training without the journey; PPO.
"""

import io
import warnings

import pytest
import torch
from builders import assert_equal_tensors
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from upgd import UPGD

SHORT = dict(n_steps=32, batch_size=32, n_epochs=2, seed=0, device="cpu")
DECAY = dict(optimizer_kwargs=dict(weight_decay=0.01))
EPS = dict(optimizer_kwargs=dict(eps=1e-7))
ADAMW = dict(optimizer_class=torch.optim.AdamW)

SAME_STATE = {
    "weight decay": DECAY,
    "eps": EPS,
    "AdamW": ADAMW,
    "amsgrad": dict(optimizer_kwargs=dict(amsgrad=True)),
}

OTHER_STATE = {
    "SGD": dict(optimizer_class=torch.optim.SGD, optimizer_kwargs=dict(momentum=0.9)),
    "Adafactor": dict(optimizer_class=torch.optim.Adafactor),
    "Adagrad": dict(optimizer_class=torch.optim.Adagrad),
    "Adamax": dict(optimizer_class=torch.optim.Adamax),
    "NAdam": dict(optimizer_class=torch.optim.NAdam),
    "UPGD": dict(optimizer_class=UPGD),
}

CRITICS = {
    "one critic": (DistributionalPPO, {}),
    "one quantile": (DistributionalPPO, dict(n_quantiles=1)),
    "twins": (DistributionalPPO, dict(use_twin_critics=True)),
    "recurrent": (RecurrentDistributionalPPO, dict(lstm_hidden_size=4)),
    "recurrent, no critic LSTM": (
        RecurrentDistributionalPPO,
        dict(lstm_hidden_size=4, enable_critic_lstm=False),
    ),
}

pytestmark = pytest.mark.filterwarnings(
    "ignore:use_variance_gradient_scaling with n_quantiles=1",
    "ignore:the optimizer's options come with its state",
)


def made(kind=DistributionalPPO, seed=0, optimizer=None, **kwargs):
    flags = {"use_twin_critics": True} if kwargs.pop("use_twin_critics", False) else {}
    policy = "MlpLstmPolicy" if kind is RecurrentDistributionalPPO else "MlpPolicy"
    policy_kwargs = dict(net_arch=[6], **kwargs, **(optimizer or {}))
    return kind(
        policy,
        "CartPole-v1",
        policy_kwargs=policy_kwargs,
        **{**SHORT, "seed": seed},
        **flags,
    )


def moments(model):
    """By the name of each parameter what the optimizer keeps of it."""
    state = model.policy.optimizer.state

    return {
        f"{name}.{key}": torch.as_tensor(value).clone()
        for name, parameter in model.policy.named_parameters()
        for key, value in state.get(parameter, {}).items()
    }


def options(model, *names):
    """By the name of each parameter options of the optimizer."""
    by_id = {id(p): group for group in model.policy.optimizer.param_groups for p in group["params"]}
    return {name: [by_id[id(p)][key] for key in names] for name, p in model.policy.named_parameters()}


def copied_by_dict(source, target, tmp_path):
    target.set_parameters(source.get_parameters())


def copied_by_file(source, target, tmp_path):
    source.save(tmp_path / "model")
    target.set_parameters(tmp_path / "model.zip")


@pytest.mark.parametrize("copied", [copied_by_dict, copied_by_file])
@pytest.mark.parametrize("goes_out", [True, False], ids=["default to own", "own to default"])
@pytest.mark.parametrize("choice", SAME_STATE.values(), ids=SAME_STATE)
def test_moments_and_parameters_arrive_by_name(choice, goes_out, copied, tmp_path):
    source = made(seed=0, optimizer=None if goes_out else choice)
    target = made(seed=1, optimizer=choice)
    if not goes_out:
        target = made(seed=1)
    source.learn(96)
    copied(source, target, tmp_path)

    assert len(moments(source)) >= 3 * len(list(source.policy.parameters()))
    assert_equal_tensors(moments(source), moments(target))
    assert_equal_tensors(source.policy.state_dict(), target.policy.state_dict())
    # As torch and PPO do, options come with the state.
    assert options(source, "eps", "betas", "weight_decay") == options(target, "eps", "betas", "weight_decay")

    target.learn(32)


@pytest.mark.parametrize(("kind", "kwargs"), CRITICS.values(), ids=CRITICS)
def test_training_after_a_round_trip_is_training_without_one(kind, kwargs, tmp_path):
    def went_on(model):
        model.set_random_seed(7)
        model.env.seed(7)
        model._last_obs = None
        if kind is RecurrentDistributionalPPO:
            model._last_lstm_states = made(kind, **kwargs)._last_lstm_states
        model.learn(96, reset_num_timesteps=False)
        return model.policy.state_dict()

    first = made(kind, **kwargs)
    between = made(kind, 1, DECAY, **kwargs)
    back = made(kind, 2, **kwargs)
    first.learn(96)
    between.set_parameters(first.get_parameters())
    copied_by_file(between, back, tmp_path)
    back.num_timesteps = first.num_timesteps
    back._n_updates = first._n_updates

    assert_equal_tensors(went_on(first), went_on(back))


@pytest.mark.parametrize(("kind", "kwargs"), CRITICS.values(), ids=CRITICS)
def test_state_of_another_arrangement_is_saved_and_loaded_and_goes_on(kind, kwargs, tmp_path):
    source = made(kind, optimizer=DECAY, **kwargs).learn(32)
    target = made(kind, 1, **kwargs)
    target.set_parameters(source.get_parameters())
    target.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", env=target.get_env(), device="cpu")

    assert_equal_tensors(moments(source), moments(loaded))

    loaded.learn(32)


@pytest.mark.parametrize("choice", [None, DECAY, ADAMW])
@pytest.mark.parametrize("given", [None, DECAY, ADAMW])
def test_load_with_other_policy_kwargs_by_custom_objects(given, choice):
    model = made(optimizer=given).learn(64)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    policy_kwargs = dict(net_arch=[6], **(choice or {}))
    loaded = DistributionalPPO.load(
        file,
        env=model.get_env(),
        custom_objects=dict(policy_kwargs=policy_kwargs),
    )

    assert_equal_tensors(moments(model), moments(loaded))

    loaded.learn(32)


def test_an_archive_whose_adam_has_one_group_is_loaded():
    """Version 0.1.0 had PPO's eps for all parameters, in one group."""
    model = made(optimizer=dict(optimizer_kwargs=dict(eps=1e-5))).learn(64)
    file = io.BytesIO()
    model.policy_kwargs = dict(net_arch=[6])
    model.save(file)
    file.seek(0)

    with pytest.warns(
        UserWarning,
        match=r"options come with its state, as in PPO: eps 1e-08 -> 1e-05\.",
    ):
        loaded = DistributionalPPO.load(file, env=model.get_env())
    assert_equal_tensors(moments(model), moments(loaded))


@pytest.mark.parametrize("goes_out", [True, False], ids=["default to other", "other to default"])
@pytest.mark.parametrize("choice", OTHER_STATE.values(), ids=OTHER_STATE)
def test_state_of_another_class_is_left_out_with_a_warning(choice, goes_out):
    """PPO takes such a state, and most classes fail at the next step."""
    source = made(optimizer=None if goes_out else choice)
    target = made(seed=1, optimizer=choice if goes_out else None)
    fresh = moments(target)
    source.learn(32)
    target.learn(32)

    with pytest.warns(
        UserWarning,
        match="begins anew: it belongs to an optimizer of another class",
    ):
        target.set_parameters(source.get_parameters())
    assert_equal_tensors(source.policy.state_dict(), target.policy.state_dict())
    assert_equal_tensors(moments(target), fresh)

    target.learn(32)


def test_equal_optimizers_exchange_their_state_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for optimizer in (
            None,
            *SAME_STATE.values(),
            *OTHER_STATE.values(),
        ):
            made(seed=1, optimizer=optimizer).set_parameters(made(optimizer=optimizer).learn(32).get_parameters())


def test_changed_options_are_named_and_kept_on_request():
    source = made().learn(32)
    target = made(seed=1, optimizer=DECAY)
    expected = r"eps 1e-08 -> 1e-05, weight_decay 0.01 -> 0\. To keep .*leave 'policy.optimizer' out"

    with pytest.warns(UserWarning, match=expected):
        target.set_parameters(source.get_parameters())

    kept = made(seed=1, optimizer=DECAY)
    parameters = source.get_parameters()
    del parameters["policy.optimizer"]
    kept.set_parameters(parameters, exact_match=False)

    assert {tuple(values) for values in options(kept, "weight_decay").values()} == {(0.01,)}
    assert_equal_tensors(source.policy.state_dict(), kept.policy.state_dict())


class ThreeGroupsPolicy(ActorCriticPolicy):
    """A user's policy with an optimizer of three groups."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        heads = [self.action_net, self.value_net]
        groups = [list(head.parameters()) for head in heads]
        groups.append(list(self.mlp_extractor.parameters()))
        self.optimizer = torch.optim.Adam([dict(params=group) for group in groups], lr=lr_schedule(1))


def three_groups(seed=0):
    return DistributionalPPO(
        ThreeGroupsPolicy,
        "CartPole-v1",
        policy_kwargs=dict(net_arch=[6]),
        **{**SHORT, "seed": seed},
    )


def test_groups_that_nobody_knows_are_refused_and_nothing_has_moved():
    source = three_groups().learn(32)
    target = made(seed=1).learn(32)
    before = {name: value.clone() for name, value in target.policy.state_dict().items()}
    kept = moments(target)

    with pytest.raises(
        ValueError,
        match=r"its groups have \[2, 2, 4\] parameters.*exact_match=False",
    ) as error:
        target.set_parameters(source.get_parameters())
    assert "[4, 4] are expected" in str(error.value)
    assert_equal_tensors(before, target.policy.state_dict())
    assert_equal_tensors(kept, moments(target))
    with pytest.warns(UserWarning, match="begins anew: its groups have"):
        target.set_parameters(source.get_parameters(), exact_match=False)
    assert_equal_tensors(source.policy.state_dict(), target.policy.state_dict())
    assert moments(target) == {}

    target.learn(32)


class OtherOrder(ActorCriticPolicy):
    """A user's policy with one group in another order."""

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        self.optimizer = torch.optim.Adam(list(self.parameters())[::-1], lr=lr_schedule(1))


def test_one_group_in_an_order_whose_moments_have_other_shapes_is_refused():
    source = DistributionalPPO(OtherOrder, "CartPole-v1", policy_kwargs=dict(net_arch=[6]), **SHORT).learn(32)
    with pytest.raises(ValueError, match="the optimizer's state does not fit"):
        made(seed=1).set_parameters(source.get_parameters())


def test_a_state_that_begins_anew_twice_is_new_both_times():
    """Adagrad's accumulators are there from the beginning, 0 each."""
    source = made().learn(32)
    target = made(seed=1, optimizer=OTHER_STATE["Adagrad"])
    fresh = moments(target)

    for _ in range(2):
        with pytest.warns(UserWarning, match="begins anew"):
            target.set_parameters(source.get_parameters())
        assert_equal_tensors(moments(target), fresh)
        target.learn(32)


def test_a_users_groups_take_the_defaults_state_and_exchange_their_own():
    source = made().learn(32)
    target = three_groups(1)
    target.set_parameters(source.get_parameters())

    assert_equal_tensors(moments(source), moments(target))

    first = three_groups().learn(32)
    second = three_groups(1)
    second.set_parameters(first.get_parameters())

    assert_equal_tensors(moments(first), moments(second))


def test_parameters_that_do_not_fit_leave_the_groups():
    source = made(optimizer=DECAY, n_quantiles=5).learn(32)
    target = made(seed=1).learn(32)
    groups = [len(group["params"]) for group in target.policy.optimizer.param_groups]
    kept = moments(target)

    with pytest.raises(RuntimeError, match="size mismatch"):
        target.set_parameters(source.get_parameters())
    assert [len(group["params"]) for group in target.policy.optimizer.param_groups] == groups
    assert_equal_tensors(kept, moments(target))

    target.learn(32)


@pytest.mark.parametrize("choice", [*SAME_STATE.values(), *OTHER_STATE.values()])
def test_all_that_ppo_takes_is_taken(choice):
    """And trains on, where PPO fails later for want of a moment."""
    for source_has in (None, choice):
        target_has = choice if source_has is None else None
        results = []

        for kind in (PPO, DistributionalPPO):
            source = made(kind, optimizer=source_has).learn(32)
            target = made(kind, 1, target_has)

            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    target.set_parameters(source.get_parameters())
                    target.learn(32)

                results.append(True)
            except (KeyError, TypeError):
                results.append(False)

        assert results[1] >= results[0]
        assert results[1]
