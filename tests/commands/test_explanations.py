"""Errors of the command line in one sentence, with the form that is wanted or the nearest name."""

import pytest
from builders import refused


def test_the_name_of_a_file_is_no_key_that_was_mistyped(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("")
    shown = refused(capsys, "signal", tmp_path)

    assert "has no run.json" in shown
    assert "Did you mean" not in shown


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--seed=3", "unrecognized arguments: --seed=3. Did you mean algorithm.seed?"),
        ("--lr=3", "unrecognized arguments: --lr=3. Did you mean algorithm.learning_rate?"),
        ("--n-envs=3", "unrecognized arguments: --n-envs=3. Did you mean run.n_envs?"),
        ("--algorithm.seed=x", "algorithm.seed wants a whole number like 64, or null, got x"),
        ("--algorithm.use_popart=3", "algorithm.use_popart wants true or false, got 3"),
        ("--algorithm.gamma=high", "algorithm.gamma wants a number like 0.5, got high"),
        ("--algorithm.value_target=td", "algorithm.value_target wants gae or sr_lambda, got td"),
        ("--market.train=2011", "market.train wants two days like [2011-01-01, 2018-12-31], or null, got 2011"),
        ("--market.regime_bounds=3", "market.regime_bounds wants numbers like [15, 25, 40], or null, got 3"),
        ("--market.trading.positions=a", "market.trading.positions wants a list like [0, 0.5, 1], or null, got a"),
        (
            "--algorithm.policy_kwargs.net_arch=3",
            "algorithm.policy_kwargs.net_arch wants a list like [64, 64], or keys and their values, or null, got 3",
        ),
        (
            "--algorithm.learning_rate=fast",
            "algorithm.learning_rate wants a number like 0.0003, or lin_0.0003 for one that falls to 0, got 'fast'",
        ),
        ("--seeds=all", "seeds wants seeds like 0-4 or 0,3,7, got 'all'"),
    ],
)
def test_a_wrong_flag_is_refused_with_the_form_that_is_wanted(capsys, flag, sentence):
    assert refused(capsys, flag) == f"error: {sentence}\n"


def test_an_entry_of_a_list_is_refused_with_the_form_that_is_wanted(capsys, tmp_path):
    assert refused(capsys, "evaluate", tmp_path, "--costs", "1", "a") == "error: costs wants a number like 0.5, got a\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 3", "there is no key seed. Did you mean algorithm.seed?"),
        ("lr: 3", "there is no key lr. Did you mean algorithm.learning_rate?"),
        ("algorithm: {lr: 3}", "there is no key algorithm.lr. Did you mean algorithm.learning_rate?"),
        ("run: {import: os}", "--run.import=PACKAGE stands on the command line only"),
    ],
)
def test_a_wrong_key_is_refused_with_file_and_nearest_key(capsys, tmp_path, text, sentence):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    message = refused(capsys, "train", "--config", str(config))

    assert message.startswith(f"error: {config}: ")
    assert sentence in message
