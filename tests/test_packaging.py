"""The distributions hold configurations, types and a console script; the sdist also its tests and pages."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import distributional_ppo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))

LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    "build",
    "runs",
    "*.egg-info",
    ".*_cache",
    "__pycache__",
    "site",
)


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Folder of a wheel and a source distribution, built with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT)
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        ".",
        cwd=folder / "tree",
    )
    return folder / "dist"


@pytest.fixture(scope="module")
def site(dist, tmp_path_factory):
    """The wheel's files, as an installer lays them out."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = dist.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_twine_finds_nothing_wrong(dist):
    run(
        sys.executable,
        "-m",
        "twine",
        "check",
        "--strict",
        *dist.iterdir(),
        cwd=dist,
    )


def test_version_comes_from_one_place(dist):
    assert {path.name for path in dist.iterdir()} == {
        f"distributional_ppo-{distributional_ppo.__version__}.tar.gz",
        f"distributional_ppo-{distributional_ppo.__version__}-py3-none-any.whl",
    }


@pytest.mark.parametrize(
    "name",
    [
        "tests/conftest.py",
        "tests/exports.py",
        "constraints.txt",
        "benchmarks/learning.yaml",
    ],
)
def test_sdist_can_run_its_tests(dist, name):
    assert name in sdist_names(dist)


def sdist_names(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def test_sdist_lacks_no_tracked_file(dist):
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    present = {name for name in listed.stdout.split() if (ROOT / name).exists()}

    assert present - sdist_names(dist) <= {".gitignore"}


def test_wheel_holds_no_tests(site):
    assert not [path for path in site.rglob("*.py") if "tests" in path.parts or path.name == "setup.py"]


def test_wheel_trains_from_any_folder(site, tmp_path):
    """With the configurations inside the wheel, which name the default of kappa that the class does not have."""
    flags = [
        "--run.total_timesteps=2048",
        "--run.eval_every=2048",
        "--run.progress_bar=false",
        "--run.name=r",
    ]
    flags += ["--algorithm.n_epochs=1", "--market.test=[2011-01-03,2011-06-30]"]
    run(
        sys.executable,
        "-m",
        "train_model_multi_patch",
        "train",
        *flags,
        cwd=tmp_path,
        PYTHONPATH=str(site),
    )

    assert "quantile_huber_kappa: 0.1" in (tmp_path / "runs/r/config.yaml").read_text("utf-8")


def test_console_script_names_itself(site, tmp_path):
    code = "import sys, train_model_multi_patch as t; sys.argv[0] = '/bin/train-model-multi-patch'; t.main(['--help'])"
    printed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert "usage: train-model-multi-patch" in printed
    assert "train-model-multi-patch evaluate runs/NAME" in printed
    assert ".py" not in printed
    assert "python" not in printed

    (entry,) = site.glob("*.dist-info/entry_points.txt")
    assert "train-model-multi-patch = train_model_multi_patch:main" in entry.read_text()


WRONG_CALLS = {
    "import distributional_ppo as d; d.variance_scaling_weight(1, 0.1)": 'Missing positional argument "clip_max"',
    "import upgd; upgd.UPGD([], variant='none')": 'incompatible type "Literal',
    "import train_model_multi_patch as t; t.main(1)": 'incompatible type "int"',
    "from quantile_critic.losses import batch_weight; batch_weight(1, 0.1)": "Missing positional argument",
    "from market_regimes.config import seeds_of; seeds_of(1)": 'incompatible type "int"',
}


def test_installed_modules_are_typed(site, tmp_path):
    """As mypy sees an installed wheel: without ``py.typed`` or stubs it would take all of it for Any."""
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    (packages,) = tmp_path.glob("env/lib/python3*/site-packages")
    shutil.copytree(site, packages, dirs_exist_ok=True)
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--python-executable",
        tmp_path / "env/bin/python",
        "--config-file=",
    ]
    code = "\n".join(WRONG_CALLS)
    done = subprocess.run(
        [*mypy, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    results = dict(re.findall(r"^<string>:(\d+): error: (.*)", done.stdout, re.M))
    for line, complaint in enumerate(WRONG_CALLS.values(), 1):
        assert complaint in results[str(line)]

    assert "import-untyped" not in done.stdout


def names_of(requirements):
    return {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in requirements}


def test_algorithm_alone_asks_for_nothing_of_the_market():
    assert names_of(PROJECT["project"]["dependencies"]) == {
        "torch",
        "stable-baselines3",
        "numpy",
        "tensorboard",
    }


@pytest.mark.parametrize(
    "extra",
    ["market", "recurrent", "ray", "bench", "docs", "onnx", "tune", "excel"],
)
def test_extras_share_nothing_but_what_compare_trains(extra):
    """``market`` has sb3-contrib, too: the shipped ``compare`` has a recurrent variant."""
    extras = {name: names_of(needs) for name, needs in PROJECT["project"]["optional-dependencies"].items()}

    for second, needs in extras.items():
        shared = {"sb3-contrib"} if {second, extra} == {"market", "recurrent"} else set()
        assert second in (extra, "test") or needs & extras[extra] == shared, second


def test_constraints_pin_every_requirement_within_its_range():
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line)
    extras = PROJECT["project"]["optional-dependencies"].values()

    for text in [
        *PROJECT["project"]["dependencies"],
        *(need for needs in extras for need in needs),
    ]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")]), text


def test_citation_has_the_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.M) == [distributional_ppo.__version__]


def test_workflow_and_templates_are_yaml():
    import yaml

    files = [
        *(ROOT / ".github").rglob("*.yml"),
        ROOT / ".pre-commit-config.yaml",
        ROOT / "mkdocs.yml",
    ]

    assert len(files) == 5
    assert all(isinstance(yaml.safe_load(file.read_text("utf-8")), dict) for file in files)
