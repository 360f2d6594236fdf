"""The benchmark of shared cash: its runs, their figures against plain loops, and its table by hand."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import portfolio
from market_regimes.config import PortfolioConfig

AGENT = "agent, trained symbol by symbol"


def row(market, variant, seed, separate, shared):
    """Growth, Sharpe ratio and turnover with separate and with shared cash."""
    names = [f"{measure}_{cash}" for cash in ("separate", "shared") for measure in ("growth", "sharpe", "turnover")]
    return {"market": market, "variant": variant, "seed": seed, **dict(zip(names, separate + shared, strict=True))}


NONE = (np.nan,) * 3
ROWS = [
    row("synthetic", "bought once", 0, NONE, (4.0, 1.0, 0.1)),
    row("synthetic", "informed rule", 0, (14.0, 6.0, 3.0), (24.0, 5.0, 9.0)),
    row("synthetic", AGENT, 0, (9.0, 3.5, 4.0), (14.0, 4.0, 8.0)),
    row("synthetic", AGENT, 1, (4.0, 6.0, 5.0), (9.0, 3.0, 7.0)),
    row("synthetic", AGENT, 2, (11.5, 1.0, 6.0), (24.0, 2.0, 6.0)),
    row(portfolio.STOCKS, "bought once", 0, NONE, (10.0, 0.5, 0.1)),
    row(portfolio.STOCKS, AGENT, 0, (7.0, 0.4, 2.0), (8.0, 0.6, 3.0)),
]


class TestTable:
    def test_shares_of_the_attainable_are_those_of_the_same_cash(self):
        """
        Growth: separate (9 - 4) / 10 = 0.5, 0, 0.75; shared (14 - 4) / 20 = 0.5, 0.25, 1. Sharpe ratio: separate
        (3.5 - 1) / 5 = 0.5, 1, 0; shared (4 - 1) / 4 = 0.75, 0.5, 0.25.
        """
        lines = portfolio.portfolio_table(pd.DataFrame(ROWS)).splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]

        assert cells[0] == [
            "market",
            "strategy",
            "cash",
            "growth a year, %",
            "attained of growth",
            "Sharpe ratio",
            "attained of sharpe",
            "turnover a year",
        ]
        assert cells[2] == ["synthetic", "bought once", "one account", "4.0", "0.00", "1.00", "0.00", "0.1"]
        assert cells[3] == ["synthetic", "informed rule", "separate", "14.0", "1.00", "6.00", "1.00", "3.0"]
        assert cells[4] == ["synthetic", "informed rule", "shared", "24.0", "1.00", "5.00", "1.00", "9.0"]
        assert cells[5] == [
            "synthetic",
            AGENT,
            "separate",
            "9.0 [4.0, 9.0, 11.5]",
            "0.50 [0.00, 0.50, 0.75]",
            "3.50 [1.00, 3.50, 6.00]",
            "0.50 [0.00, 0.50, 1.00]",
            "5.0 [4.0, 5.0, 6.0]",
        ]
        assert cells[6][3:7] == [
            "14.0 [9.0, 14.0, 24.0]",
            "0.50 [0.25, 0.50, 1.00]",
            "3.00 [2.00, 3.00, 4.00]",
            "0.50 [0.25, 0.50, 0.75]",
        ]

    def test_where_nobody_knows_the_law_nothing_is_attainable(self):
        lines = portfolio.portfolio_table(pd.DataFrame(ROWS)).splitlines()
        of_stocks = [line for line in lines if line.startswith(f"| {portfolio.STOCKS}")]

        assert of_stocks == [
            f"| {portfolio.STOCKS} | bought once | one account | 10.0 | n/a | 0.50 | n/a | 0.1 |",
            f"| {portfolio.STOCKS} | {AGENT} | separate | 7.0 | n/a | 0.40 | n/a | 2.0 |",
            f"| {portfolio.STOCKS} | {AGENT} | shared | 8.0 | n/a | 0.60 | n/a | 3.0 |",
        ]


class TestRuns:
    def test_every_market_has_every_rule_that_applies_and_the_agents_of_every_seed(self):
        found = portfolio.cells(2)

        assert len(set(found)) == len(found) == 3 * 8 - 1 + 2 * 3 * 3
        assert portfolio.Cell("synthetic", "informed rule", 0) in found
        assert portfolio.Cell(portfolio.STOCKS, "informed rule", 0) not in found
        assert portfolio.Cell(portfolio.STOCKS, AGENT, 1) in found

    def test_bought_once_on_stocks_by_hand(self):
        """The closes of the file, from the first test day's close before to the last, and 1 basis point of it all."""
        cell = portfolio.run_cell(portfolio.Cell(portfolio.STOCKS, "bought once", 0))
        table = pd.read_csv(portfolio.config_of(portfolio.STOCKS).data, index_col="Date", parse_dates=True)
        first = table.index.searchsorted(pd.Timestamp("2014-09-30")) - 1
        equity = (table.iloc[first:] / table.iloc[first]).mean(axis=1).to_numpy() / 1.0001
        equity[0] = 1
        returns = np.diff(equity) / equity[:-1]

        assert len(table.columns) == 20
        assert cell["growth_shared"] == pytest.approx(100 * 252 * np.log(equity[-1]) / len(returns), abs=0.01)
        assert cell["sharpe_shared"] == pytest.approx(np.sqrt(252) * returns.mean() / returns.std(ddof=1), abs=1e-3)
        assert cell["growth_separate"] is None

    def test_the_informed_rule_chooses_with_shared_cash(self):
        """Figures of docs/data.md, which tests/market/test_shipped.py measures."""
        cell = portfolio.run_cell(portfolio.Cell("synthetic_choice", "informed rule", 0))

        assert cell["growth_separate"] == pytest.approx(11.01, abs=0.01)
        assert cell["growth_shared"] == pytest.approx(20.77, abs=0.01)

    def test_an_agent_is_played_in_the_accounts_of_its_variant(self, monkeypatch):
        """After one rollout; a variant of one account is trained and played in it."""
        limited = PortfolioConfig(cash="shared", gross=0.5)
        monkeypatch.setitem(portfolio.SETTINGS["run"], "total_timesteps", 2048)
        monkeypatch.setitem(portfolio.VARIANTS, "limited", portfolio.Variant(limited, ("shared",), {}, {}))

        both = portfolio.run_cell(portfolio.Cell("synthetic", AGENT, 0))
        alone = portfolio.run_cell(portfolio.Cell("synthetic", "limited", 0))

        assert all(np.isfinite(both[f"growth_{cash}"]) for cash in ("separate", "shared"))
        assert both["growth_separate"] != both["growth_shared"]
        assert alone["growth_separate"] is None
        assert abs(alone["growth_shared"]) < abs(both["growth_shared"])
