"""The rules beside the agent in evaluations: while training, at the end and in a comparison."""

import json

import pytest

from market_regimes.compare.cell import Cell, run_cell
from market_regimes.config import MarketConfig, RunConfig, TradingCosts
from market_regimes.evaluate.account import joint
from market_regimes.evaluate.figures import figures
from market_regimes.evaluate.play import backtest
from market_regimes.evaluate.strategies import buy_and_hold, fitted, informed
from market_regimes.evaluate.tables import print_seeds, print_summary
from market_regimes.run.study import Study

ALGORITHM = dict(policy="MlpPolicy", seed=0, device="cpu", n_steps=32, batch_size=64, n_epochs=1, gamma=0.95)
MARKET = MarketConfig(
    data="synthetic",
    train=("1999-01-04", "2000-12-29"),
    validation=("2001-01-01", "2001-06-29"),
    test=("2001-07-02", "2001-12-31"),
)


def sharpes(segments):
    costs = TradingCosts()
    rules = (buy_and_hold, fitted(segments, costs), informed(segments, costs))
    return [figures(joint(backtest(segments, costs, rule)), 252)["sharpe_ratio"] for rule in rules]


@pytest.fixture(scope="module")
def study():
    return Study(RunConfig(total_timesteps=256), MARKET, ALGORITHM)


def test_an_evaluation_while_training_logs_the_rules_and_the_share_of_the_way_to_the_informed_one(study):
    scores, _ = study.score()
    held, learnt, known = sharpes(study.segments["validation"])
    assert scores["sharpe_buy_and_hold"] == pytest.approx(held)
    assert scores["sharpe_fitted_rule"] == pytest.approx(learnt)
    assert scores["sharpe_informed_rule"] == pytest.approx(known)
    assert known > held
    assert scores["share_of_attainable"] == pytest.approx((scores["sharpe_ratio"] - held) / (known - held))


def test_the_evaluation_has_the_rules_by_name_and_prints_them(study, tmp_path, capsys):
    result = study.evaluate(tmp_path, "test")
    held, learnt, known = sharpes(study.segments["test"])
    found = json.loads((tmp_path / "evaluation-test.json").read_text())
    assert list(found["joint"]) == [
        "agent",
        "buy and hold",
        "equal weights",
        "volatility target",
        "fitted rule",
        "informed rule",
        "random timing",
    ]
    for name, sharpe in (("buy and hold", held), ("fitted rule", learnt), ("informed rule", known)):
        assert found["joint"][name]["sharpe_ratio"] == pytest.approx(sharpe)
    share = (found["joint"]["agent"]["sharpe_ratio"] - held) / (known - held)
    assert found["share_of_attainable"] == pytest.approx(share)
    print_summary(result, "title")
    printed = capsys.readouterr().out
    assert f"of the way from buy-and-hold's Sharpe ratio to the informed rule's: {100 * share:.1f} %" in printed
    print_seeds({0: result, 1: result}, "title")
    line = f"Sharpe ratio of the fitted rule {learnt:.2f}, of the informed rule {known:.2f}"
    assert line in capsys.readouterr().out


def test_a_cell_has_the_rules_and_their_days(study):
    cell = Cell("synthetic", "fold", "baseline", 0, RunConfig(total_timesteps=512), MARKET, ALGORITHM)
    result = run_cell(cell)
    held, learnt, known = sharpes(study.segments["test"])
    found = result["figures"]
    assert [found[f"{name}_sharpe"] for name in ("hold", "fitted", "informed")] == pytest.approx([held, learnt, known])
    assert found["test_attained"] == pytest.approx((found["test_sharpe"] - held) / (known - held))
    assert {"hold", "fitted", "informed"} <= set(result["daily"])


def test_where_nobody_knows_the_law_there_is_no_informed_rule():
    market = MarketConfig(data="sp500", train=MARKET.train, test=MARKET.test)
    result = run_cell(Cell("sp500", "fold", "baseline", 0, RunConfig(total_timesteps=512), market, ALGORITHM))
    assert result["figures"]["test_attained"] is None
    assert "informed_sharpe" not in result["figures"]
    assert "informed" not in result["daily"]
    assert "fitted" in result["daily"]
