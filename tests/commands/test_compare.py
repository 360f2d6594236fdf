"""The commands ``compare`` and ``regimes``: tables and a report, resumption, refusals before any training."""

import contextlib
import io
import pickle
import shutil

import pandas as pd
import pytest
from builders import cells_here, refused

from market_regimes.compare.comparison import Comparison
from train_model_multi_patch import main

SMALL = ["--compare.seeds=0", "--compare.first_test=2011-01-01", "--compare.test_years=2", "--run.progress_bar=false"]
SMALL += [
    "--run.total_timesteps=2048",
    "--compare.workers=1",
    "--algorithm.n_epochs=1",
    "--compare.last_test=2012-12-31",
]


TWO = """--variants={"baseline": {}, "batch": {"use_variance_gradient_scaling": true}}"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two variants, one cell each; and what was printed."""
    out = tmp_path_factory.mktemp("comparisons")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), cells_here():
        main(["compare", *SMALL, TWO, f"--run.out={out}", "--run.name=two"])
    return out / "two", printed.getvalue()


def test_compare_writes_tables_and_a_report(compared):
    folder, printed = compared
    cells = pd.read_csv(folder / "cells.csv")

    assert cells[["market", "fold", "variant", "status"]].to_numpy().tolist() == [
        ["sp500", "2011-01 to 2012-12", "baseline", "ok"],
        ["sp500", "2011-01 to 2012-12", "batch", "ok"],
    ]

    exact = pd.read_parquet(folder / "cells.parquet")["test_sharpe"].to_numpy()

    assert cells["test_sharpe"].tolist() == [float(f"{sharpe:.6g}") for sharpe in exact]
    assert set(pd.read_parquet(folder / "curves.parquet")["variant"]) == {"baseline", "batch"}
    assert len(pd.read_parquet(folder / "daily.parquet")) == 2 * 502

    question = "The explained variance rises"

    assert question in (folder / "report.html").read_text()
    assert f"- {question} (explained variance; hoped: more)\n    batch against baseline: N/A" in printed
    assert printed.splitlines()[-1].startswith(
        "sp500: calm and stormy days pull the critic alike (a ratio of 0.8 to 1.25)"
    )
    assert "sp500, 2011-01 to 2012-12: train 1999-01-04 to 2010-12-01" in printed


def test_a_comparison_goes_on_and_takes_more_seeds(compared, tmp_path, capsys, here):
    folder = shutil.copytree(compared[0], tmp_path / "two")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    main(["compare", "--resume", str(folder), "--compare.seeds=0-1"])

    assert len(pd.read_csv(folder / "cells.csv")) == 4
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}.items()

    changed = refused(capsys, "compare", "--resume", str(folder), "--algorithm.gamma=0.9")

    assert "was started with algorithm.gamma=0.95" in changed


def test_ctrl_c_says_how_the_comparison_goes_on(tmp_path, capsys, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", interrupted)

    with pytest.raises(SystemExit) as stop:
        main(["compare", *SMALL, TWO, f"--run.out={tmp_path}", "--run.name=stopped"])

    assert stop.value.code == 130
    assert f" compare --resume {tmp_path / 'stopped'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants={}"], "there are no variants"),
        (["--variants={'a': {}}"], "compare.baseline=baseline is none of the variants a"),
        (["--variants={'baseline': {'use_twin_critic': true}}"], "Did you mean algorithm.use_twin_critics?"),
        (["--variants={'baseline': {'gamma': 'high'}}"], "variants.baseline"),
        (["--variants={'baseline': {'vf_coef': -1}}"], "algorithm.vf_coef must be within"),
        (["--variants={'baseline': {'n_envs': 0}}"], "run.n_envs must be at least 1"),
        ([TWO, "--run.env_id=CartPole-v1"], "only markets have folds"),
        ([TWO, "--compare.first_test=2030-01-01"], "leaves no test period"),
        ([TWO, "--compare.basline=1"], "Did you mean compare.baseline?"),
        ([TWO, "--compare.executor=threads"], "compare.executor"),
        ([TWO, "--market.data=nowhere.csv"], "there is no file"),
    ],
)
def test_comparisons_that_cannot_be_are_refused_before_any_training(tmp_path, capsys, arguments, words):
    assert words in refused(capsys, "compare", *SMALL, f"--run.out={tmp_path}", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["compare", "regimes"])
def test_comparisons_are_configured_to_the_last_variant(name, tmp_path, monkeypatch, capsys):
    """All variants are tried on a fold before the first one is trained; their cells can be handed to processes."""

    def nothing(self, *args):
        assert len(self.cells) >= 90
        assert pickle.loads(pickle.dumps(self.cells)) == self.cells
        raise KeyboardInterrupt

    monkeypatch.setattr(Comparison, "run", nothing)

    with pytest.raises(SystemExit):
        main([name, f"--run.out={tmp_path}"])
