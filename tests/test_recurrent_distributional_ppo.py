"""RecurrentDistributionalPPO beside sb3-contrib's RecurrentPPO: training, flags, saving and loading."""

import importlib
import inspect
import pickle
import sys

import numpy as np
import pytest
import torch
from builders import (
    AS_PPO,
    RECURRENT_CASES,
    SHARED_LSTM,
    make_recurrent,
    plain_state,
)
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.logger import configure

from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from quantile_critic.recurrent_policies import (
    QuantileRecurrentActorCriticPolicy,
)
from upgd import UPGD


@pytest.mark.parametrize("case", RECURRENT_CASES.values(), ids=RECURRENT_CASES)
def test_with_one_quantile_five_updates_end_where_those_of_recurrent_ppo_end(case):
    theirs = plain_state(make_recurrent(RecurrentPPO, **case).learn(5 * 96))
    ours = plain_state(make_recurrent(**case, **AS_PPO).learn(5 * 96))
    assert ours.keys() == theirs.keys()

    for name, expected in theirs.items():
        # 1e-8 is a 30,000th of a step of Adam's, for biases that are still near 0.
        assert (ours[name] - expected).norm() <= 1e-5 * expected.norm() + 1e-8, name


def test_binary_actions_train():
    """sb3-contrib 2.9.2 cannot train on these: its log probability of int8 actions raises."""
    model = make_recurrent(action_space=spaces.MultiBinary(3)).learn(96)
    assert model.predict(np.zeros((3, 3), dtype=np.float32))[0].shape == (
        3,
        3,
    )


def test_signature_is_recurrent_ppos_then_the_flags():
    theirs = list(inspect.signature(RecurrentPPO.__init__).parameters.values())
    ours = list(inspect.signature(RecurrentDistributionalPPO.__init__).parameters.values())
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]

    for parameter in inspect.signature(RecurrentDistributionalPPO).parameters:
        assert f":param {parameter}:" in RecurrentDistributionalPPO.__doc__
    flags = [p for p in inspect.signature(DistributionalPPO).parameters.values() if p.kind is p.KEYWORD_ONLY]
    model = make_recurrent()

    assert all(getattr(model, flag.name) == flag.default for flag in flags)
    assert issubclass(RecurrentDistributionalPPO, RecurrentPPO)
    with pytest.raises(TypeError, match="no_flag"):
        make_recurrent(no_flag=1)


def test_sb3_contrib_is_imported_on_demand(monkeypatch):
    """The modules are imported anew, as by a process that has imported none of them."""
    for name in list(sys.modules):
        if name.split(".")[0] in (
            "distributional_ppo",
            "recurrent_distributional_ppo",
            "quantile_critic",
            "sb3_contrib",
        ):
            monkeypatch.delitem(sys.modules, name)
    fresh = importlib.import_module("distributional_ppo")
    assert "sb3_contrib" not in sys.modules

    monkeypatch.setitem(sys.modules, "sb3_contrib", None)
    with pytest.raises(ImportError, match=r'needs sb3-contrib: pip install "distributional-ppo\[recurrent\]"'):
        fresh.RecurrentDistributionalPPO  # noqa: B018

    monkeypatch.delitem(sys.modules, "sb3_contrib")
    recurrent = fresh.RecurrentDistributionalPPO
    assert recurrent.__module__ == "recurrent_distributional_ppo"
    assert recurrent.__qualname__ == "RecurrentDistributionalPPO"


def test_a_misspelt_name_is_not_an_attribute():
    with pytest.raises(ImportError, match="RecurentDistributionalPPO"):
        from distributional_ppo import RecurentDistributionalPPO  # noqa: F401


def test_chunks_cut_gradients_unless_they_are_longer_than_a_sequence():
    whole, same, cut = (
        plain_state(make_recurrent(sequence_length=length, **AS_PPO).learn(96))["lstm_actor.weight_hh_l0"]
        for length in (None, 40, 2)
    )

    assert torch.equal(whole, same)
    assert not torch.allclose(whole, cut, rtol=1e-4)


@pytest.mark.parametrize("length", [0, -1, 2.5, True, "8"])
def test_sequence_length_is_checked(length, tmp_path):
    with pytest.raises(ValueError, match="sequence_length"):
        make_recurrent(sequence_length=length)

    make_recurrent().save(tmp_path / "model")
    with pytest.raises(ValueError, match="sequence_length"):
        RecurrentDistributionalPPO.load(tmp_path / "model", sequence_length=length)


def test_the_class_is_a_statement_that_inspect_finds_and_earlier_pickles_name_it_where_it_was():
    import distributional_ppo

    assert inspect.getsource(RecurrentDistributionalPPO).startswith("class RecurrentDistributionalPPO(")
    assert pickle.loads(b"cdistributional_ppo\nRecurrentDistributionalPPO\n.") is RecurrentDistributionalPPO
    assert distributional_ppo.RecurrentDistributionalPPO is RecurrentDistributionalPPO


FLAGS = {
    "sr_lambda": dict(value_target="sr_lambda"),
    "PopArt": dict(
        normalize_returns=True,
        use_popart=True,
        clip_range_vf=0.2,
        clip_range_vf_units="std",
    ),
    "mean_only": dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_only"),
    "mean_and_variance": dict(clip_range_vf=0.2, distributional_vf_clip_mode="mean_and_variance"),
    "per_quantile": dict(clip_range_vf=0.2, distributional_vf_clip_mode="per_quantile"),
    "disable": dict(clip_range_vf=0.2, distributional_vf_clip_mode="disable"),
    "dsac_t": dict(variance_scaling_mode="dsac_t", normalize_returns=True),
    "twins": dict(use_twin_critics=True, value_target="sr_lambda", clip_range_vf=0.2),
    "twins, shared LSTM": dict(use_twin_critics=True, policy_kwargs=SHARED_LSTM),
    "twins, unshared extractor": dict(
        use_twin_critics=True,
        policy_kwargs=dict(share_features_extractor=False),
    ),
    "UPGD": dict(policy_kwargs=dict(optimizer_class=UPGD)),
    "scaling off": dict(use_variance_gradient_scaling=False),
}


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_flags_train_are_saved_and_go_on(flags, tmp_path):
    model = make_recurrent(**flags)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    before = {name: value.clone() for name, value in plain_state(model).items()}
    model.learn(2 * 96)
    scalars = model.logger.name_to_value

    assert all(np.isfinite(value) for name, value in scalars.items() if name.startswith("train/"))
    assert 0 <= scalars["train/quantile_calibration_error"] <= 1

    clips = flags.get("distributional_vf_clip_mode") != "disable" and "clip_range_vf" in flags
    assert ("train/clip_fraction_vf" in scalars) == clips
    assert ("train/value_loss_2" in scalars) == ("use_twin_critics" in flags)
    assert ("train/variance_scaling_weight" in scalars) == flags.get("use_variance_gradient_scaling", True)

    changed = [name for name, value in plain_state(model).items() if not torch.equal(value, before[name])]
    assert {name.split(".")[0] for name in changed} >= {
        "lstm_actor",
        "value_net",
        "mlp_extractor",
        "action_net",
    }

    model.save(tmp_path / "model")
    again = RecurrentDistributionalPPO.load(tmp_path / "model", env=model.get_env(), vf_coef=0.25)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value), name

    assert again.vf_coef == 0.25

    again.learn(96, reset_num_timesteps=False)
    assert again.num_timesteps == 3 * 96


def test_parameters_of_a_recurrent_ppo():
    ours = make_recurrent()
    theirs = make_recurrent(RecurrentPPO, seed=5)
    with pytest.raises(ValueError, match="plain PPO"):
        ours.set_parameters(theirs.get_parameters())

    ours.set_parameters(theirs.get_parameters(), exact_match=False)
    assert torch.equal(
        ours.policy.lstm_actor.weight_hh_l0,
        theirs.policy.lstm_actor.weight_hh_l0,
    )

    ours.set_parameters(make_recurrent(seed=6).get_parameters())


def test_a_recurrent_ppos_archive_is_refused(tmp_path):
    make_recurrent(RecurrentPPO).save(tmp_path / "plain")
    with pytest.raises(ValueError, match="plain PPO"):
        RecurrentDistributionalPPO.load(tmp_path / "plain")

    make_recurrent().save(tmp_path / "model")
    with pytest.raises(TypeError, match="is recurrent: it needs RecurrentDistributionalPPO"):
        DistributionalPPO.load(tmp_path / "model")

    with pytest.raises(TypeError, match="did you mean 'sequence_length'"):
        RecurrentDistributionalPPO.load(tmp_path / "model", sequence_lenght=4)

    again = RecurrentDistributionalPPO.load(
        tmp_path / "model",
        sequence_length=4,
        use_variance_gradient_scaling=False,
    )
    assert (again.sequence_length, again.use_variance_gradient_scaling) == (
        4,
        False,
    )


def test_class_and_policy_names_lead_back():
    assert pickle.loads(pickle.dumps(RecurrentDistributionalPPO)) is RecurrentDistributionalPPO
    assert type(make_recurrent().policy) is QuantileRecurrentActorCriticPolicy
    assert isinstance(make_recurrent(), DistributionalPPO)


def test_the_last_states_of_the_lstm_stay_reachable():
    """What a run that goes on exactly must keep: with them, and the random generators, a copy does the same."""
    model = make_recurrent()
    model.learn(96)
    kept = model._last_lstm_states, model._last_episode_starts

    assert isinstance(kept[0], RNNStates)
    assert kept[0].vf[0].shape == (1, 3, 8)
    assert kept[1].shape == (3,)
    assert not torch.equal(kept[0].vf[0], torch.zeros(1, 3, 8))


def test_numbers_that_are_not_finite_are_named_and_undone():
    model = make_recurrent(**RECURRENT_CASES["box"])
    with torch.no_grad():
        model.policy.lstm_actor.weight_hh_l0.fill_(float("nan"))

    with pytest.raises(ValueError, match="log probabilities are NaN"):
        model.learn(96)

    model = make_recurrent(learning_rate=1e30)
    before = {name: value.clone() for name, value in plain_state(model).items()}
    with pytest.raises(FloatingPointError, match="put back"):
        model.learn(96)
    assert all(torch.equal(value, before[name]) for name, value in plain_state(model).items())
