"""Wrong configurations end the program in one sentence; any other trains to finite parameters."""

import shutil

import pytest
import torch
import yaml
from builders import QUICK_FLAGS, refused
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from market_regimes.commands import parsers, train


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algorithm: {use_variance_gradiant_scaling: true}", "use_variance_gradient_scaling"),
        ("algorithm: {policy_kwargs: {n_quantile: 3}}", "algorithm.policy_kwargs.n_quantiles"),
        ("market: {trading: {fee_bps: 3}}", "market.trading.fee_bp"),
        ("algorithm: {n_steps: many}", "algorithm.n_steps"),
        ("algorithm: {use_popart: 3}", "algorithm.use_popart"),
        ("algorithm: {learning_rate: fast}", "algorithm.learning_rate"),
        ("algorithm: {policy_kwargs: {activation_fn: os.system}}", "Tanh"),
        ("algorithm: {policy: os.system}", "MlpPolicy"),
        ("algorithm: {clip_range_vf: 0.2, normalize_returns: true, use_popart: false}", "use_popart"),
        ("algorithm: {value_target: td}", "sr_lambda"),
        ("algorithm: {clip_range_vf: far}", "clip_range_vf"),
        ("algorithm: {quantile_huber_kappa: -1.0}", "quantile_huber_kappa"),
        ("market: {train: [1999-01-01, 2012-12-31]}", "without overlap"),
        ("market: {test: [2030-01-01, 2031-12-31]}", "2018-12-31"),
        ("run: {n_envs: 0}", "n_envs"),
        ("run: {env_id: CartPool-v1}", "CartPole"),
        ("run: {env_id: 'os:CartPole-v1'}", "registered"),
        ("run: {env_id: CartPole-v1}\nalgorithm: {policy: MultiInputPolicy}", "error"),
        ("algorithm: {device: nowhere}", "device"),
        ("algorithm: {n_epochs: 0}", "n_epochs"),
        ("run: {n_envs: 2}\nalgorithm:", "algorithm"),
        ("algorithm:", "algorithm"),
        ("market: {test: ['2011', '2018']}", "ISO dates"),
        ("market: {data: nowhere.csv}", "no file nowhere.csv"),
        ("market: {data: []}", "names no data"),
        ("market: {data: nasdaq, volatility_index: real}", "no real index"),
        ("market: {volatility_index: reel}", "estimated"),
        ("market: {regime_bounds: [30, 20, 40]}", "increasing"),
        ("market: {bars_per_year: 0}", "bars_per_year"),
        ("market: {train: [1990-01-01, 2008-12-31]}", "not covered by sp500"),
        ("market: {trading: {positions: [1.0]}}", "two different"),
        ("run: {patience: 0}", "patience"),
        ("seeds: all", "0-4"),
        ("seeds: 0-5000", "at most 1000"),
        ("run: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_wrong_files_are_refused_with_the_nearest_name(capsys, tmp_path, text, expected):
    config = tmp_path / "config.yaml"
    config.write_text(text)

    assert expected in refused(capsys, "train", "--config", str(config), f"--run.out={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["algorithm.sequence_length=16"], "algorithm.sequence_length=16 is for the recurrent policies MlpLstmPolicy,"),
        (
            ["algorithm.policy=MlpLstmPolicy", "algorithm.sequence_length=0"],
            "algorithm.sequence_length must be within [1, 1e+09], got 0",
        ),
        (
            ["algorithm.policy_kwargs.lstm_hidden_size=8"],
            "algorithm.policy_kwargs.lstm_hidden_size=8 is for the recurrent policies",
        ),
        (
            ["algorithm.policy_kwargs.lstm_kwargs.bias=false"],
            "algorithm.policy_kwargs.lstm_kwargs.bias=False is for the recurrent policies",
        ),
        (
            ["algorithm.policy=MlpLstmPolicy", "algorithm.policy_kwargs.lstm_kwargs.dropout=1.5"],
            "algorithm.policy_kwargs.lstm_kwargs.dropout must be within [0, 1], got 1.5",
        ),
        (
            ["algorithm.policy_kwargs.lstm_kwargs.dropot=0.1"],
            "Did you mean algorithm.policy_kwargs.lstm_kwargs.dropout?",
        ),
        (["algorithm.policy=MlpLstm"], "algorithm.policy wants MlpPolicy or CnnPolicy or MultiInputPolicy or MlpLstm"),
        (["algorithm.sequence_lenght=16"], "Did you mean algorithm.sequence_length?"),
    ],
)
def test_recurrent_keys_are_refused_in_one_sentence(capsys, flags, sentence):
    assert sentence in refused(capsys, "train", *QUICK_FLAGS, *(f"--{flag}" for flag in flags))


FLAGS = [a.dest for a in parsers.train_parser()._actions if "." in a.dest]


FLAGS = [name for name in FLAGS if not any(other.startswith(name + ".") for other in FLAGS)]


VALUES = st.one_of(
    st.floats(),
    st.integers(-5, 500),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.lists(st.floats(0, 1), max_size=3),
)


def train_or_refuse(capsys, tmp_path, values):
    """A run of a few steps with these values either trains, to finite parameters, or is refused in one sentence."""
    config = tmp_path / "config.yaml"
    nested = {}
    for name, value in values.items():
        *sections, key = name.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    config.write_text(yaml.safe_dump(nested))
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    tiny = ["--run.total_timesteps=64", "--algorithm.n_steps=16", "--run.progress_bar=false", "--run.n_envs=2"]
    tiny += [f"--run.out={tmp_path / 'runs'}", "--run.name=run", "--algorithm.batch_size=16", "--algorithm.n_epochs=1"]
    parser = parsers.train_parser()
    try:
        read_config = parser.parse_args(["--config", str(config), *tiny])
        study = train.train_run(parser, read_config, None)[0]
    except SystemExit:
        assert capsys.readouterr().err.strip().split("\n")[-1].startswith("error: ")
    else:
        event("trained")
        assert all(torch.isfinite(p).all() for p in study.model.policy.parameters())


@given(st.dictionaries(st.sampled_from(FLAGS), VALUES, min_size=1, max_size=3))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_gives_one_sentence_or_finite_parameters(capsys, tmp_path, values):
    train_or_refuse(capsys, tmp_path, values)


NUMBERS = {
    "learning_rate": st.floats(0, 1e6),
    "gamma": st.floats(0, 1),
    "gae_lambda": st.floats(0, 1),
    "clip_range": st.floats(1e-9, 1e3),
    "ent_coef": st.floats(-1e6, 1e6),
    "vf_coef": st.floats(0, 1e6),
    "max_grad_norm": st.floats(1e-9, 1e9),
    "quantile_huber_kappa": st.floats(1e-30, 1e30),
    "return_stats_rate": st.floats(1e-9, 1),
    "variance_scaling_clip_min": st.floats(0, 1e6),
    "variance_scaling_clip_max": st.floats(1e6, 1e30),
    "normalize_returns": st.booleans(),
    "use_variance_gradient_scaling": st.booleans(),
    "policy_kwargs.n_quantiles": st.integers(2, 64),
    "policy_kwargs.log_std_init": st.floats(-50, 50),
}


@given(st.fixed_dictionaries({}, optional={f"algorithm.{name}": values for name, values in NUMBERS.items()}))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_extreme_numbers_give_one_sentence_or_finite_parameters(capsys, tmp_path, values):
    train_or_refuse(capsys, tmp_path, {"algorithm.use_popart": False, **values})
