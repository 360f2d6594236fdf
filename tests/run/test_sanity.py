"""Each question of the sanity run against event files made for it: one number in one update decides."""

from types import SimpleNamespace

import pytest
from torch.utils.tensorboard import SummaryWriter

from market_regimes.run.sanity import checks

GOOD = {
    "train/value_loss": [0.3, 0.3, 0.3],
    "train/variance_scaling_weight": [0.2, 1.0, 9.0],
    "train/variance_scaling_clamped": [0.0, 0.49, 0.2],
    "train/quantile_variance_mean": [0.11, 0.5, 1.9],
}
QUESTIONS = ("logged at every update", "is it within", "off its clamps", "quantiles' variance within")


def answers(folder, scalars, low=0.1, high=10.0):
    with SummaryWriter(str(folder)) as writer:
        for tag, values in scalars.items():
            for step, value in enumerate(values):
                writer.add_scalar(tag, value, step)
    model = SimpleNamespace(
        variance_scaling_clip_min=low, variance_scaling_clip_max=high, use_variance_gradient_scaling=True
    )
    found = checks(folder, model)
    assert [question in check.question for question, check in zip(QUESTIONS, found, strict=True)] == [True] * 4
    return [bool(check.passed) for check in found]


def test_a_healthy_run_passes_and_says_its_numbers(tmp_path):
    assert answers(tmp_path, GOOD) == [True] * 4


@pytest.mark.parametrize("update", range(3))
@pytest.mark.parametrize(
    ("tag", "value", "fails"),
    [
        ("train/variance_scaling_weight", 0.09, 1),
        ("train/variance_scaling_weight", 10.1, 1),
        ("train/variance_scaling_clamped", 0.5, 2),
        ("train/variance_scaling_clamped", 1.0, 2),
        ("train/quantile_variance_mean", 0.09, 3),
        ("train/quantile_variance_mean", 2.1, 3),
    ],
)
def test_one_update_out_of_range_fails_its_own_check_only(tmp_path, tag, value, fails, update):
    values = [value if i == update else old for i, old in enumerate(GOOD[tag])]
    counts = fails == 1 or update == 2  # clamps and variance are those of the last update, when quantiles have parted

    assert answers(tmp_path, {**GOOD, tag: values}) == [i != fails or not counts for i in range(4)]


@pytest.mark.parametrize(("low", "high", "passed"), [(0.2, 9.0, True), (0.21, 9.0, False), (0.2, 8.9, False)])
def test_the_range_of_the_weight_is_the_models(tmp_path, low, high, passed):
    assert answers(tmp_path, GOOD, low, high) == [True, passed, True, True]


def test_a_weight_missing_in_one_update_or_in_all_fails(tmp_path):
    assert answers(tmp_path / "one", {**GOOD, "train/variance_scaling_weight": [1.0, 1.0]}) == [False, True, True, True]

    none = {tag: values for tag, values in GOOD.items() if "variance" not in tag}

    assert answers(tmp_path / "all", none) == [False] * 4
