"""The pages' tables from made-up runs, against plain loops: each row and column has numbers of its own."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from scipy import stats

from benchmarks import chain, learning, results
from market_regimes.compare.statistics import interval

KEYS = ("market", "fold", "variant", "seed")


def read(markdown):
    """Head and rows."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    assert lines[1] == ["---"] * len(lines[0])
    assert {len(line) for line in lines} == {len(lines[0])}
    return lines[0], lines[2:]


def test_a_table_in_markdown():
    table = pd.DataFrame({"a name": ["finance", "b"], "n": [1.5, np.nan], "whole": pd.array([3, None], "Int64")})
    assert results.markdown(table).splitlines() == [
        "| a name | n | whole |",
        "| --- | --- | --- |",
        "| finance | 1.5 | 3 |",
        "| b | n/a | n/a |",
    ]


def test_tables_are_put_between_their_marks():
    page = "one\n<!-- a -->\nold\nolder\n<!-- end -->\ntwo\n<!-- b -->\n<!-- end -->\nthree\n"
    found = results.with_tables(page, {"b": "| B |", "a": "| A |"})
    assert found == "one\n<!-- a -->\n| A |\n<!-- end -->\ntwo\n<!-- b -->\n| B |\n<!-- end -->\nthree\n"
    with pytest.raises(ValueError, match="substring"):
        results.with_tables(page, {"c": ""})


MARKETS = ("sp500", "synthetic", "nasdaq")
FOLDS = {"dsac_t": "b", "baseline": "ab", "batch": "ab"}


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    keys = [(m, f, v, s) for s in range(6) for v in FOLDS for f in FOLDS[v] for m in MARKETS]
    cells = pd.DataFrame(keys, columns=list(KEYS)).assign(status="ok", error=None, bars_per_year=252.0, seconds=1.0)
    shift = cells["variant"].map({"batch": 1.0, "baseline": 0.0, "dsac_t": -0.1})
    shift += cells["market"].map({"sp500": 0, "synthetic": 1, "nasdaq": 2})
    for name in [*results.SHOWN, "test_mean_reward"]:
        cells[name] = np.exp(shift + rng.normal(0, 0.3, len(cells))).round(5)
    cells.loc[cells["market"] != "synthetic", "test_attained"] = np.nan  # where nobody knows the law
    cells.loc[cells["variant"] == "batch", "grad_ratio_stormy"] = np.nan  # as with recurrent policies
    cells.loc[16, "status"] = "failed"
    return cells


@pytest.fixture(scope="module")
def pages(cells, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "CELLS", tmp_path_factory.mktemp("results") / "cells.csv")
        cells.to_csv(results.CELLS, index=False)
        return {name: read(table) for name, table in results.tables().items()}


def test_figures_are_committed_with_four_digits_though_a_comparison_has_none(cells, tmp_path, monkeypatch):
    parts = cells[cells["market"] != "synthetic"], cells[cells["market"] == "synthetic"]
    for part, name in zip((parts[0].assign(test_attained=None), parts[1]), "ab", strict=True):
        (tmp_path / name).mkdir()
        part.to_parquet(tmp_path / name / "cells.parquet")
    monkeypatch.setattr(results, "CELLS", tmp_path / "cells.csv")
    results.take([tmp_path / "a", tmp_path / "b"])
    written = pd.read_csv(results.CELLS, dtype=str)["test_attained"].dropna()
    assert written.tolist() == [f"{value:.4g}" for value in parts[1]["test_attained"]]


def grids(cells, metric, markets, variant):
    """The variant's values and the baseline's, a row per seed and a column per market and fold."""
    found = {
        (cell["market"], cell["fold"], cell["variant"], cell["seed"]): cell[metric]
        for cell in cells.to_dict("records")
        if cell["status"] == "ok"
    }
    columns = [(market, fold) for market in sorted(markets) for fold in "ab"]
    return [
        np.array([[found.get((*column, name, seed), np.nan) for column in columns] for seed in range(6)])
        for name in (variant, "baseline")
    ]


def middle(values):
    return stats.trim_mean(values[np.isfinite(values)], 0.25)


def bold(text, low, high):
    return text if low <= 0 <= high else f"**{text}**"


def test_medians_are_of_their_market_and_variant_and_bold_where_they_differ(cells, pages):
    head, rows = pages["medians"]
    assert head == [
        "market",
        "variant",
        "seeds",
        "gradient, stormy / calm",
        "spread, calm",
        "spread, stormy",
        "value-loss spread",
        "explained variance",
        "attained",
        "Sharpe, test",
        "buy and hold",
        "growth, test",
        "growth of buy and hold",
        "growth attained",
    ]
    assert [row[:2] for row in rows] == [[m, v] for m in MARKETS for v in FOLDS]
    for market, variant, _, *texts in rows:
        for metric, text in zip(results.SHOWN, texts, strict=True):
            own, base = grids(cells, metric, [market], variant)
            if np.isnan(own).all():
                assert text == "n/a"
            elif variant == "baseline":
                assert text == f"{np.nanmedian(own):.2f}"
            else:
                assert text == bold(f"{np.nanmedian(own):.2f}", *interval(own - base, 0))
    assert {text.startswith("**") for row in rows for text in row[3:]} == {True, False}
    # Seeds, not cells: dsac_t has one fold, the others two; one cell of it failed.
    assert [row[2] for row in rows if row[0] == "synthetic"] == ["5", "6", "6"]


def test_hypotheses_are_measured_on_the_committed_cells_of_each_group(cells, pages):
    head, rows = pages["hopes"]
    assert head == ["hope", "variant", "hoped", "synthetic", "synthetic_hidden", "indices"]
    assert {row[1] for row in rows} == {"batch"}  # no cells of the others
    questions = [h.question for h in results.HYPOTHESES if h.variant == "batch" and h.against is None]
    assert [row[0] for row in rows] == [question for question in questions if question in {row[0] for row in rows}]
    assert {row[4] for row in rows} == {"n/a"}
    (row,) = [row for row in rows if row[0] == "The Sharpe ratio rises"]
    assert row[2] == "+5 to +10 %"
    for text, markets in ((row[3], ["synthetic"]), (row[5], ["sp500", "nasdaq"])):
        own, base = grids(cells, "test_sharpe", markets, "batch")
        known = np.isfinite(own - base)
        one, two = middle(base[known]), middle(own[known])
        ends = [100 * end / one for end in interval(own - base, 0)]
        change = f"{100 * middle(own - base) / one:+.1f} % [{ends[0]:+.1f}, {ends[1]:+.1f}]"
        assert text == f"{one:.3g} became {two:.3g}: {change}; better, reached"


def test_what_the_tables_need_is_taken_from_comparisons(cells, tmp_path, monkeypatch):
    parts = [cells[cells["market"] == "sp500"], cells[cells["market"] != "sp500"]]
    for part, folder in zip(parts, (tmp_path / "a", tmp_path / "b"), strict=True):
        folder.mkdir()
        part.assign(something=1.0).to_parquet(folder / "cells.parquet")
    monkeypatch.setattr(results, "CELLS", tmp_path / "taken.csv")
    results.take([tmp_path / "a", tmp_path / "b"])
    taken = pd.read_csv(tmp_path / "taken.csv")
    assert set(cells) == set(taken)
    for one, two in zip(pd.concat(parts).to_dict("records"), taken.to_dict("records"), strict=True):
        assert [two[name] for name in KEYS] == [one[name] for name in KEYS]
        assert two["test_sharpe"] == pytest.approx(one["test_sharpe"], rel=1e-3)
    with pytest.raises(ValueError, match="a cell is in two of"):
        results.take([tmp_path / "a", tmp_path / "a"])
    parts[0].assign(market="gold").to_parquet(tmp_path / "a/cells.parquet")
    with pytest.raises(ValueError, match="no group of the tables has gold"):
        results.take([tmp_path / "a", tmp_path / "b"])


# Learning


@pytest.fixture(scope="module")
def runs():
    """Every cell of the benchmark in random order, with scores and curves of its own."""
    rng, rows = np.random.default_rng(1), []
    for i, cell in enumerate(learning.cells(6)):
        shift = 40 * list({**learning.VARIANTS, **learning.SYSTEMS}).index(cell.variant) * (-1) ** cell.exponent
        curve = rng.normal(50 + shift, 20, learning.BINS)
        text = ["nan" if j in (0, 7) else f"{value:.4g}" for j, value in enumerate(curve)]
        score = round(300 + shift + 3 * cell.exponent + rng.normal(0, 30), 2)
        rows.append({**cell._asdict(), "steps": 1, "return": score, "seconds": i, "curve": " ".join(text)})
    return pd.DataFrame(rows).iloc[rng.permutation(len(rows))].reset_index(drop=True)


def scores_of(runs, task, variant, exponent=0, column="return"):
    """By seed."""
    found = {
        row["seed"]: row[column]
        for row in runs.to_dict("records")
        if (row["task"], row["variant"], row["exponent"]) == (task, variant, exponent)
    }
    return [found[seed] for seed in sorted(found)]


def curve_of(text):
    """Where no episode ended the last known value stands; before the first there is none."""
    values, last = [], np.nan
    for word in text.split():
        last = last if word == "nan" else float(word)
        values.append(last)
    return values


def number(value, sign=""):
    return f"{value:{sign},.0f}" if abs(value) >= 100 else f"{value:{sign},.1f}"


def summary(values, sign=""):
    low, high = interval(np.array(values)[:, None], 0)
    text = f"{number(stats.trim_mean(values, 0.25), sign)} [{number(low, sign)}, {number(high, sign)}]"
    return bold(text, low, high) if sign else text


def test_scores_are_of_their_task_and_variant(runs):
    head, rows = read(learning.learning_table(runs))
    others = list(learning.VARIANTS)[1:]
    assert head == ["task", "steps", "SB3 PPO", *(f"{name} - PPO" for name in others), "defaults - PPO, while training"]
    assert [row[0] for row in rows] == learning.TASKS
    for task, steps, *texts in rows:
        assert steps == f"{learning.SETTINGS[task]['n_timesteps']:,}"
        base = np.array(scores_of(runs, task, "SB3 PPO"))
        expected = [summary(base), *(summary(scores_of(runs, task, name) - base, "+") for name in others)]
        early = [
            np.array([np.nanmean(curve_of(text)) for text in scores_of(runs, task, name, column="curve")])
            for name in ("defaults", "SB3 PPO")
        ]
        assert texts == [*expected, summary(early[0] - early[1], "+")]


def test_seeds_are_paired_by_number(runs):
    """Without seed 2 of the baseline its pair is left out, not moved."""
    fewer = runs[~((runs["variant"] == "SB3 PPO") & (runs["seed"] == 2))]
    task = learning.TASKS[0]
    (row,) = [row for row in read(learning.learning_table(fewer))[1] if row[0] == task]
    base, own = (np.delete(scores_of(runs, task, name), 2) for name in ("SB3 PPO", "defaults"))
    assert (row[2], row[3]) == (summary(base), summary(own - base, "+"))


def test_changes_by_scale_are_from_the_same_variant_at_one(runs):
    gone = (
        (runs["task"] == "Pendulum-v1") & (runs["variant"] == "PopArt") & (runs["exponent"] == 5) & (runs["seed"] == 0)
    )
    head, rows = read(learning.scale_table(runs[~gone]))
    assert head == ["task", "", "2^-10", "2^-5", "2^0", "2^5", "2^10"]
    assert [row[:2] for row in rows] == [[t, v] for t in learning.SCALED_TASKS for v in learning.SCALED_VARIANTS]
    for task, variant, *texts in rows:
        values = [stats.trim_mean(scores_of(runs, task, variant, e), 0.25) for e in (-10, -5, 0, 5, 10)]
        changes = [f" ({(value - values[2]) / abs(values[2]):+.0%})" for value in values]
        expected = [number(value) + change for value, change in zip(values, changes, strict=True)]
        expected[2] = number(values[2])
        if (task, variant) == ("Pendulum-v1", "PopArt"):
            expected[3] = "n/a"
        assert texts == expected


def test_changes_are_relative_to_the_size_of_a_negative_score(runs):
    """From -200 to -100: half of it up."""
    runs = runs.assign(**{"return": np.where(runs["exponent"] == 10, -100.0, -200.0)})
    for row in read(learning.scale_table(runs))[1]:
        assert row[2:] == ["-200 (+0%)", "-200 (+0%)", "-200", "-200 (+0%)", "-100 (+50%)"]


def test_returns_of_every_system_from_the_best_on(runs):
    head, rows = read(learning.systems_table(runs))
    assert head == ["task", "variant", "returns, sorted"]
    names = [*learning.VARIANTS, *learning.SYSTEMS]
    assert [row[:2] for row in rows] == [[task, name] for task in learning.SYSTEM_TASKS for name in names]
    for task, name, text in rows:
        assert text == ", ".join(f"{value:.0f}" for value in sorted(scores_of(runs, task, name), reverse=True))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws a picture and gives its panels."""
    figures = []
    monkeypatch.setattr(plt.Figure, "savefig", lambda figure, *args, **options: figures.append(figure))

    def draw(picture, runs):
        plt.switch_backend("Agg")
        picture(runs, tmp_path / "picture.png")
        return figures[-1].axes

    return draw


def band_of(axis, colour):
    (band,) = [each for each in axis.collections if to_hex(each.get_facecolor()[0]) == to_hex(colour)]
    ends = {}
    for x, y in band.get_paths()[0].vertices:
        ends.setdefault(float(x), []).append(y)
    return {x: (min(ys), max(ys)) for x, ys in ends.items()}


def test_learning_curves_and_bands_are_of_their_task_and_variant(runs, drawn):
    axes = drawn(learning.learning_picture, runs)
    assert [axis.get_title() for axis in axes] == learning.TASKS
    for axis in axes[:2]:
        task, lines = axis.get_title(), {line.get_label(): line for line in axis.lines}
        assert list(lines) == list(learning.VARIANTS)
        for name, line in lines.items():
            curves = np.array([curve_of(text) for text in scores_of(runs, task, name, column="curve")])[:, 1:]
            steps = learning.SETTINGS[task]["n_timesteps"] * np.arange(2, 21) / 20  # no episode ended in the first
            assert line.get_xdata()[1:] == pytest.approx(steps)
            assert line.get_ydata()[1:] == pytest.approx([stats.trim_mean(column, 0.25) for column in curves.T])
            band = band_of(axis, line.get_color())
            assert list(band) == pytest.approx(steps)
            assert list(band.values()) == [pytest.approx(interval(column[:, None], 0)) for column in curves.T]


def test_scores_and_bands_by_scale_are_of_their_task_and_variant(runs, drawn):
    axes = drawn(learning.scale_picture, runs)
    assert [axis.get_title() for axis in axes] == learning.SCALED_TASKS
    for axis in axes:
        assert [line.get_label() for line in axis.lines] == learning.SCALED_VARIANTS
        for line in axis.lines:
            scores = [scores_of(runs, axis.get_title(), line.get_label(), e) for e in (-10, -5, 0, 5, 10)]
            assert list(line.get_xdata()) == [-10, -5, 0, 5, 10]
            assert line.get_ydata() == pytest.approx([stats.trim_mean(each, 0.25) for each in scores])
            bands = [pytest.approx(interval(np.array(each)[:, None], 0)) for each in scores]
            assert list(band_of(axis, line.get_color()).values()) == bands


def test_errors_of_the_chain_are_of_their_setting():
    rng = np.random.default_rng(2)
    rows = [{**cell._asdict(), "error": rng.uniform(), "largest": rng.uniform(1, 2)} for cell in chain.cells(3)]
    found = pd.DataFrame(rows)
    head, lines = read(chain.table(found))
    assert head[:3] == ["gae_lambda", "n_quantiles", "kappa"]
    assert head[3:] == [f"{target}, {rewards}" for target in ("gae", "sr_lambda") for rewards in chain.REWARDS]
    assert len(lines) == 6
    for line in lines:
        for column, text in zip(head[3:], line[3:], strict=True):
            of = [
                row
                for row in rows
                if [float(row[name]) for name in head[:3]] == [float(each) for each in line[:3]]
                and f"{row['value_target']}, {row['rewards']}" == column
            ]
            assert len(of) == 3
            largest = max(row["largest"] for row in of)
            assert text == f"{np.mean([row['error'] for row in of]):.3f} ({largest:.2f})"


def test_the_tables_of_results_are_those_of_the_committed_cells():
    for name, table in results.tables().items():
        page = results.PAGES[name].read_text()
        assert results.with_tables(page, {name: table}) == page

    cells = pd.read_csv(results.CELLS)
    assert (cells["status"] == "ok").all()
    assert len(cells) == 560
