"""A key that stands twice in a configuration is refused with both lines: the reader of YAML keeps the last alone."""

from pathlib import Path

import pytest
import yaml

from market_regimes.files import check_keys
from market_regimes.run.folder import read_configuration
from train_model_multi_patch import main

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "key", "where"),
    [
        (
            "algorithm:\n  gamma: 0.9\nrun: {}\nalgorithm:\n  n_steps: 64\n",
            "algorithm",
            "in lines 1 and 4",
        ),
        (
            "market:\n  trading:\n    fee_bp: 1\n\n    fee_bp: 2\n",
            "market.trading.fee_bp",
            "in lines 3 and 5",
        ),
        (
            "market:\n  train: [2000-01-01, 2001-01-01]\n  'train': [1, 2]\n",
            "market.train",
            "in lines 2 and 3",
        ),
        (
            "variants:\n  baseline: {}\n  other: {}\n  baseline: {gamma: 1}\n",
            "variants.baseline",
            "in lines 2 and 4",
        ),
        (
            "hypotheses:\n- question: a\n  metric: b\n  question: c\n",
            "hypotheses[0].question",
            "in lines 2 and 4",
        ),
        ("market: {data: a, data: b}\n", "market.data", "in line 1"),
        ("a:\n  1: x\n  0x1: y\n", "a.1", "in lines 2 and 3"),
        ("a:\n  yes: x\n  true: y\n", "a.True", "in lines 2 and 3"),
        (
            "a: &a {x: 1}\nb: &b {x: 2}\nc:\n  <<: *a\n  <<: *b\n",
            "c.<<",
            "in lines 4 and 5",
        ),
        ("a: &a\n  x: 1\n  x: 2\nb: *a\n", "a.x", "in lines 2 and 3"),
        ("market:\n  data: a\nmarket.data: b\n", "market.data", "in lines 2 and 3"),
        ("market.data: a\nmarket: {data: b}\n", "market.data", "in lines 1 and 2"),
        ('{"run": {},\n "run": {}}', "run", "in lines 1 and 2"),
    ],
)
def test_a_key_twice_is_refused_with_both_lines_at_any_depth(text, key, where):
    with pytest.raises(ValueError, match="stands twice") as refusal:
        check_keys(text, "my.yaml")
    assert str(refusal.value) == f"my.yaml: the key {key} stands twice, {where}: keep one"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "market: {data: a}\nrun: {data: b}\n",
        "base: &base {gamma: 0.9, n_steps: 64}\nmine:\n  <<: *base\n  gamma: 0.99\n",
        "a: &a {x: 1}\nb: &b {x: 2}\nc:\n  <<: [*a, *b]\n  x: 3\nd: *a\ne: {<<: *a}\n",
        "a: &a\n  <<: {x: 1}\n  x: 2\nb:\n  <<: *a\n  x: 3\n",
        "- {x: 1}\n- {x: 2}\n",
        "a: &a [*a]\n",
        "a: [1, {",
        "? [x, y]\n: 1\n? [x, y]\n: 2\n",
    ],
)
def test_merge_keys_aliases_and_invalid_yaml_are_left_to_the_reader(text):
    check_keys(text, "my.yaml")


def test_every_shipped_configuration_has_each_key_once():
    files = [
        *(ROOT / "configs").glob("*.yaml"),
        *(ROOT / "benchmarks").glob("*.yaml"),
    ]
    assert len(files) > 5

    for path in files:
        check_keys(path.read_text("utf-8"), str(path))


@pytest.fixture
def refused(capsys):
    """A function that runs a command which must end in one sentence, and gives it."""

    def refused(*arguments):
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        assert end.value.code == 2

        return capsys.readouterr().err

    return refused


@pytest.mark.parametrize("command", ["train", "sanity", "compare", "regimes", "tune"])
def test_commands_refuse_a_configuration_with_a_section_twice(tmp_path, refused, command):
    path = tmp_path / "twice.yaml"
    path.write_text("run:\n  n_envs: 2\nalgorithm:\n  gamma: 0.9\nrun:\n  name: x\n", "utf-8")
    expected = f"error: {path}: the key run stands twice, in lines 1 and 5: keep one\n"

    assert refused(command, "--config", str(path)) == expected
    assert refused(command, f"--config={path}") == expected


def test_flags_and_the_files_of_sections_are_refused_alike(tmp_path, refused):
    section = tmp_path / "run.yaml"
    section.write_text("n_envs: 2\nname: x\nn_envs: 6\n", "utf-8")
    (tmp_path / "main.yaml").write_text(f"run: {section}\n", "utf-8")
    expected = f"error: {section}: the key n_envs stands twice, in lines 1 and 3: keep one\n"

    assert refused("train", f"--run={section}") == expected
    assert refused("train", "--config", str(tmp_path / "main.yaml")) == expected

    for value in ("{close: a, close: b}", '{"close": "a", "close": "b"}'):
        expected = "error: --market.columns: the key close stands twice, in line 1: keep one\n"
        assert refused("data", "x.csv", f"--market.columns={value}") == expected
        assert refused("train", "--market.columns", value) == expected


def test_a_run_folder_with_a_key_twice_is_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}", "utf-8")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"run": {"n_envs": 2}}) + "run:\n  n_envs: 4\n", "utf-8")
    with pytest.raises(
        ValueError,
        match=r"config\.yaml: the key run stands twice, in lines 1 and 3",
    ):
        read_configuration(tmp_path)
