"""The tables in the terminal: every number is in the row of its figure and the column of its strategy, seed, market."""

import re

import numpy as np
import pandas as pd
import pytest

from market_regimes.compare.printing import print_by_regime
from market_regimes.evaluate.tables import median, print_seeds, print_summary
from market_regimes.run.sanity import Check, print_checks

PERCENT = ("max_drawdown", "hit_rate", "total_return", "gross_return", "costs_per_year")
PLAIN = ("sharpe_ratio", "sortino_ratio", "turnover_per_year")


@pytest.fixture
def printed(capsys, monkeypatch):
    """A function: the lines of the terminal, each cut where two blanks are."""
    monkeypatch.setenv("COLUMNS", "300")

    def read():
        return [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines() if line.strip()]

    return read


def made(rng, regimes=("calm", "crash")):
    """Figures of a strategy, all of them different."""
    figures = {name: rng.uniform(0.01, 0.99) for name in (*PERCENT, *PLAIN)}
    figures |= {
        "max_drawdown": -rng.uniform(0.01, 0.99),
        "exposure": rng.uniform(),
        "bars": int(rng.integers(99, 9999)),
    }
    cell = {
        name: dict(bars=int(rng.integers(99, 999)), sharpe_ratio=rng.normal(), exposure=rng.uniform())
        for name in regimes
    }
    return figures | {"regimes": cell}


def text(name, value):
    if value is None:
        return "n/a"
    if name in PERCENT:
        return f"{100 * value:.1f} %"
    return {"bars": f"{value:.0f}", "exposure": f"{100 * value:.0f} %"}.get(name, f"{value:.2f}")


def sharpes(cells):
    return [text("sharpe_ratio", cell["sharpe_ratio"]) for cell in cells]


def test_every_figure_of_a_summary_is_in_the_column_of_its_strategy(printed):
    rng = np.random.default_rng(0)
    names = ("agent", "buy and hold", "cash")
    joint = {name: made(rng) for name in names}
    joint["cash"]["sharpe_ratio"] = joint["cash"]["regimes"]["calm"]["sharpe_ratio"] = None
    symbols = {symbol: {name: made(rng) for name in names} for symbol in ("AAA", "BBB")}
    result = {"joint": joint, "symbols": symbols, "share_of_random_timings_below_agent": 0.8766}
    print_summary(result, "what was evaluated")
    lines = printed()
    assert ["what was evaluated"] in lines
    assert lines.count(["figure", *names]) == 1
    for figure in (*PERCENT, *PLAIN, "exposure", "bars"):
        assert [figure, *(text(figure, joint[name][figure]) for name in names)] in lines
    for regime in ("calm", "crash"):
        cells = [joint[name]["regimes"][regime] for name in names]
        own = [str(cells[0]["bars"]), text("exposure", cells[0]["exposure"])]
        assert [regime, *own, *sharpes(cells)] in lines
    for symbol, columns in symbols.items():
        drawdown = text("max_drawdown", columns["agent"]["max_drawdown"])
        assert [symbol, drawdown, *sharpes(columns[name] for name in names)] in lines
    assert ["rank of the agent among its random timings, equal ones by half: 87.7 %"] in lines


@pytest.mark.parametrize("symbols", [1, 2])
def test_several_symbols_say_what_their_account_is_and_equal_weights_are_no_column_by_symbol(printed, symbols):
    rng = np.random.default_rng(1)
    alone = ("agent", "buy and hold")
    names = (*alone, "equal weights") if symbols > 1 else alone
    by_symbol = {f"S{i}": {name: made(rng) for name in alone} for i in range(symbols)}
    print_summary({"joint": {name: made(rng) for name in names}, "symbols": by_symbol}, "what was evaluated")
    lines = printed()
    assert ["figure", *names] in lines
    assert (["symbol", "drawdown", *alone] in lines) == (symbols > 1)
    said = [line for (line, *_) in lines if "no money moves between them" in line]
    assert [line[:9] for line in said] == (["2 symbols"] if symbols > 1 else [])


def test_one_symbol_has_no_table_of_its_own(printed):
    figures = {"agent": made(np.random.default_rng(1), regimes=())}
    print_summary({"joint": figures, "symbols": {"AAA": figures}}, "title")
    lines = printed()
    assert not any(line[0] in ("AAA", "regime") or "random timings" in line[0] for line in lines)


@pytest.mark.parametrize("held", [True, False])
def test_seeds_stand_beside_their_median_and_buy_and_hold(printed, held):
    rng = np.random.default_rng(2)
    agents = {seed: made(rng) for seed in (7, 3, 5, 4)}
    agents[3]["sharpe_ratio"] = None
    benchmark = made(rng)
    others = {"buy and hold": benchmark} if held else {}
    of_lead = {"robustness": lead(rng)} if held else {}
    print_seeds({seed: {"joint": {"agent": agent, **others}} | of_lead for seed, agent in agents.items()}, "title")
    lines = printed()
    assert ["figure", "seed 7", "seed 3", "seed 5", "seed 4", "median", *others] in lines
    for figure in (*PERCENT, *PLAIN, "exposure", "bars"):
        values = [agent[figure] for agent in agents.values()]
        middle = np.median([value for value in values if value is not None])
        last = [benchmark[figure]] if held else []
        assert [figure, *(text(figure, value) for value in (*values, middle, *last))] in lines


def test_a_median_leaves_out_what_is_undefined():
    assert median([None, 3.0, np.nan, 1.0, 10.0, np.inf]) == 3.0
    assert median([None, 4.0, 1.0]) == 2.5
    assert median([None, np.nan]) is None


def test_calm_and_stormy_days_by_market_and_variant(printed):
    columns = (
        "grad_ratio_stormy",
        "grad_ratio_crash",
        "spread_calm",
        "spread_stormy",
        "explained_variance",
        "test_sharpe",
    )
    rng, rows = np.random.default_rng(3), []
    for seed in range(3):
        for market in ("sp500", "nasdaq"):
            for variant in ("[b]batch", "baseline"):
                rows.append(
                    dict(market=market, variant=variant, seed=seed, status="ok")
                    | {c: rng.uniform(1, 9) for c in columns}
                )
    rows[4]["status"] = "failed"
    rows[5]["spread_calm"] = None
    cells = pd.DataFrame(rows).drop(columns="grad_ratio_crash")
    cells.loc[cells["market"] == "nasdaq", "test_sharpe"] = np.nan
    print_by_regime(cells)
    lines = printed()
    for market in ("sp500", "nasdaq"):
        for variant in ("[b]batch", "baseline"):
            texts = []
            for column in columns:
                values = (
                    [
                        row[column]
                        for row in cells.to_dict("records")
                        if (row["market"], row["variant"], row["status"]) == (market, variant, "ok")
                        and column in row
                        and np.isfinite(row[column] or np.nan)
                    ]
                    if column in cells
                    else []
                )
                texts.append(f"{np.median(values):.2f}" if values else "n/a")
            assert " ".join([market, variant, *texts]) in [" ".join(line) for line in lines]
    head = [" ".join(line) for line in lines]
    assert "gradient gradient spread spread explained Sharpe of" in head
    assert "market variant stormy/calm crash/calm calm stormy variance a cell" in head


@pytest.mark.parametrize("answers", [(True, True), (True, False), (False, True)])
def test_checks_pass_together(printed, answers):
    checks = [Check(f"question {i}", passed, f"seen {i}") for i, passed in enumerate(answers)]
    assert print_checks(checks, "title") == all(answers)
    lines = printed()
    for i, passed in enumerate(answers):
        assert [f"question {i}", "yes" if passed else "NO", f"seen {i}"] in lines


LEAD = {  # in the table of several seeds, and in JSON
    "sharpe_difference": "sharpe_difference",
    "difference_low": "sharpe_difference_low",
    "difference_high": "sharpe_difference_high",
    "one_bar_later": "sharpe_ratio_one_bar_later",
}


def lead(rng, break_even="at a cost", cost=1.0):
    return {key: rng.normal() for key in LEAD.values()} | {"break_even": break_even, "break_even_cost_bp": cost}


def test_the_figures_of_a_lead_stand_under_each_seed(printed):
    rng = np.random.default_rng(4)
    results = {seed: {"joint": {"agent": made(rng), "buy and hold": made(rng)}, "symbols": {}} for seed in (7, 3)}
    results[7]["robustness"] = lead(rng, cost=12.34)
    results[3]["robustness"] = lead(rng, "behind at no cost", None) | {"sharpe_difference": None}
    print_seeds(results, "title")
    lines = printed()
    for name, key in LEAD.items():
        assert [name, *(text(name, results[seed]["robustness"][key]) for seed in (7, 3))] in lines
    assert ["break_even_bp", "12.3", "behind"] in lines


def test_the_figures_of_a_lead_stand_under_the_table_of_one_run(capsys):
    rng = np.random.default_rng(5)
    found = {"sharpe_difference": 0.5, "sharpe_difference_low": -0.25, "sharpe_difference_high": 1.25}
    found |= {"sharpe_ratio_one_bar_later": 0.125, "break_even": "at a cost", "break_even_cost_bp": 12.34}
    print_summary({"joint": {"agent": made(rng)}, "symbols": {}, "robustness": found}, "title")
    assert capsys.readouterr().out.endswith(
        "Sharpe ratio minus that of buy-and-hold: 0.50, 95 % interval -0.25 to 1.25\n"
        "Sharpe ratio with orders filled one bar later: 0.12; break-even cost in bp: 12.3\n"
    )


def test_a_table_of_costs_says_that_the_decisions_stay(printed):
    curve = dict(costs=[0.0, 5.0], growth=[0.2, 0.1], growth_of_hold=[0.05, 0.04], sharpe=[2.0, 1.0])
    curve |= dict(sharpe_of_hold=[0.5, 0.4], break_even=dict(growth_of_buy_and_hold="above the grid", no_growth=7.25))
    figures = {"agent": made(np.random.default_rng(1), regimes=())}
    print_summary({"joint": figures, "symbols": {"AAA": figures}, "costs": curve}, "title")

    lines = printed()
    assert ["5", "10.0 %", "1.00", "4.0 %", "0.40"] in lines
    assert ["the decisions are those at the costs of the evaluation; the policy is not asked again"] in lines
