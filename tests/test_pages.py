"""The pages of docs/: code runs, commands parse, links and files exist, the tables of flags and scalars are whole."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stable_baselines3 import PPO

import train_model_multi_patch
from distributional_ppo import DistributionalPPO, RecurrentDistributionalPPO
from market_regimes import MarketConfig, RunConfig, Study

ROOT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}
PROGRAM = "python train_model_multi_patch.py"


def blocks(language):
    """Page and text of every code block of a language."""
    pattern = rf"^```{language}\n(.*?)^```"
    return [(page, text) for page, all_of in PAGES.items() for text in re.findall(pattern, all_of, re.DOTALL | re.M)]


def commands():
    """Every command line of the program, as a list of its arguments."""
    text = "\n".join(text for _, text in blocks("bash"))
    lines = re.sub(r"^torchrun (--\S+ )*", "python ", text, flags=re.M).splitlines()
    lines = [line for line in lines if line.startswith(PROGRAM)]
    return sorted({line.removeprefix(PROGRAM).strip() for line in lines})


def numbered(results):
    return [pytest.param(page, text, id=f"{page}-{i}") for i, (page, text) in enumerate(results)]


@pytest.mark.parametrize(("page", "text"), numbered(blocks("python")))
def test_python_runs(page, text, tmp_path, monkeypatch, make_prices):
    monkeypatch.chdir(tmp_path)

    if "runs/mine" in text:  # a run that the page has trained before
        make_prices(920, start="2015-07-01").to_csv("prices.csv", index=False)
        run = RunConfig(total_timesteps=64, n_envs=2, name="mine", progress_bar=False)
        Study(
            run,
            MarketConfig(data="prices.csv"),
            dict(n_steps=16, batch_size=32, n_epochs=1),
        ).start()

    exec(compile(text, page, "exec"), {})


@pytest.mark.parametrize(("page", "text"), numbered(blocks("yaml")))
def test_yaml_is_a_configuration(page, text, tmp_path, monkeypatch):
    file = tmp_path / "own.yaml"
    file.write_text(text, "utf-8")
    sections = {"variants": "compare", "space": "tune"}
    command = next(
        (sections[name] for name in sections if name in yaml.safe_load(text)),
        "train",
    )
    config = parsed([command, f"--config={file}"], monkeypatch)[command]

    for section, keys in yaml.safe_load(text).items():
        if section not in sections:
            assert all(config[section][key] == value for key, value in keys.items() if not isinstance(value, dict))


def parsed(arguments, monkeypatch):
    """The configuration that the command line makes of its arguments; nothing is trained."""
    records = []
    monkeypatch.setattr(train_model_multi_patch, "_run", lambda parser, config: records.append(config))
    train_model_multi_patch.main(arguments)
    return records[0]


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)

    if "--resume" in arguments:  # its run folder holds a configuration as it was parsed
        folder = tmp_path / "run"
        folder.mkdir()
        file = f"{arguments[0]}.yaml" if arguments[0] in ("compare", "tune") else "train.yaml"
        (folder / "config.yaml").write_text((ROOT / "configs" / file).read_text("utf-8"), "utf-8")
        arguments[arguments.index("--resume") + 1] = str(folder)

    parsed(arguments, monkeypatch)


@pytest.mark.parametrize(("page", "text"), numbered(blocks("bash")))
def test_shell_has_no_other_programs(page, text):
    allowed = {
        "python",
        "python3",
        "pip",
        ".",
        "tensorboard",
        "torchrun",
        "make",
        "git",
        "pytest",
        "mypy",
        "ruff",
    }
    assert {line.split()[0] for line in text.splitlines()} <= allowed

    for file in re.findall(r"python ((?:benchmarks|examples)/\w+\.py)", text):
        assert (ROOT / file).exists(), file

    for extras in re.findall(r"\[([\w,]+)\]\"", text):
        assert set(extras.split(",")) <= set((ROOT / "pyproject.toml").read_text("utf-8").replace(" = [", " ").split())


def test_every_block_is_of_a_language_that_is_tested():
    results = {
        language
        for text in PAGES.values()
        for language in re.findall(r"^```(\w*)\n(?:.*?)^```", text, re.DOTALL | re.M)
    }

    assert results <= {"python", "bash", "yaml", "text"}


@pytest.mark.parametrize("page", PAGES)
def test_links_pictures_and_named_files_exist(page):
    folder = (ROOT / page).parent
    text = PAGES[page]
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)", text):
        assert (folder / target).exists(), target

    for name in re.findall(r"`(?:python )?((?:[\w.]+/)+[\w.-]+\.(?:py|yaml|md|yml))`", text):
        assert (ROOT / name).exists(), name


def test_nav_names_every_page():
    named = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
    assert {f"docs/{page}" for page in named} == PAGES.keys()


def test_flag_table_has_every_flag_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", PAGES["docs/flags.md"], re.M))
    ours = inspect.signature(DistributionalPPO).parameters
    actual = {name: repr(p.default) for name, p in ours.items() if name not in inspect.signature(PPO).parameters}

    assert rows == actual | {"n_quantiles": "32", "clip_range_vf": "None"}


def test_tensorboard_page_has_every_scalar_of_an_update(tmp_path, read_scalars):
    """Of all that one run can log: with VF clipping, a Gaussian policy, the weight, parts of loss and gradients."""
    parts = dict(critic_loss="mean_and_spread", gradient_clipping="apart")
    model = DistributionalPPO(
        "MlpPolicy",
        "Pendulum-v1",
        n_steps=64,
        clip_range_vf=0.5,
        seed=0,
        tensorboard_log=str(tmp_path),
        **parts,
    ).learn(128)
    logged = {name for name in read_scalars(tmp_path) if name.startswith("train/")}

    assert model.num_timesteps == 128
    assert len(logged) > 15

    rows = set(re.findall(r"^\| `(train/\w+)` \|", PAGES["docs/tensorboard.md"], re.M))
    assert logged - rows == set()
    # Of regimes, and of layers that actor and critic share.
    assert rows - logged == {
        "train/value_error_REGIME",
        "train/value_grad_norm_REGIME",
        "train/grad_norm_shared",
    }


def test_method_quotes_what_its_benchmark_prints(monkeypatch):
    """Two cells of the table that need no training: a weight of 1, and that of "batch" in its own units."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import weight

    variance = torch.tensor([0.02, 0.98])
    off, batch = (weight.weights_of(variant, variance, variance.mean().sqrt()) for variant in weight.VARIANTS[:2])

    assert off.tolist() == [1, 1]
    assert batch.tolist() == pytest.approx([0.5, 0.5])  # (0.02 + 0.98) / 2

    dsac_t = weight.weights_of(weight.VARIANTS[2], variance, torch.tensor(0.6))
    assert dsac_t.tolist() == pytest.approx([3.0, 1 / 3])  # 0.36 / 0.12; 0.36 / 1.08


def test_pages_build_and_load_nothing(tmp_path):
    """As ``make docs``: links, anchors and references hold. No page asks a network for a script, a style or a font."""
    pytest.importorskip("mkdocs")

    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr

    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES)

    for page in pages:
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', text), page

    algorithm = (tmp_path / "site/api/algorithm.html").read_text("utf-8")

    assert "variance_scaling_clip_max" in algorithm


@pytest.mark.parametrize(
    "block",
    re.findall(r"```python\n(.*?)```", PAGES["docs/recurrent.md"], re.DOTALL),
)
def test_python_of_the_recurrent_page_predicts_a_row_of_quantiles(block):
    names = {}
    exec(compile(block, "recurrent.md", "exec"), names)
    assert names["quantiles"].shape == (1, 32)


def test_the_recurrent_page_names_the_default_of_its_flag():
    flags = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", PAGES["docs/recurrent.md"], re.MULTILINE))
    parameters = inspect.signature(RecurrentDistributionalPPO).parameters
    assert flags == {name: repr(parameters[name].default) for name in flags} != {}
