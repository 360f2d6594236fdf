"""
From a CSV of your own prices to a trained agent, its figures and its picture, all from Python.

    python examples/own_prices.py [prices.csv]    under a minute; without a file it makes one up
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from train_model_multi_patch import main as command_line


def made_up(path: Path) -> Path:
    """Ten years of daily closes whose calm stretches drift upwards and whose stormy ones fall."""
    rng = np.random.default_rng(0)
    stormy = np.arange(2_520) // 63 % 4 == 3
    returns = rng.normal(np.where(stormy, -0.002, 0.001), np.where(stormy, 0.02, 0.006))
    dates = pd.bdate_range("2010-01-01", periods=len(returns))
    pd.DataFrame({"Date": dates, "Close": 100 * np.exp(returns.cumsum())}).to_csv(path, index=False)
    return path


def main(prices: str | None = None) -> None:
    """
    Train and evaluate; every flag of the command line is a line here.

    :param prices: CSV file of prices, None: one that is made up
    """
    path = Path(prices) if prices else made_up(Path("prices.csv"))
    command_line(["data", str(path)])  # what is read from the file, and what is assumed
    command_line(
        [
            "train",
            f"--market.data={path}",
            "--market.trading.fee_bp=2",
            "--run.name=own",
            "--run.total_timesteps=20480",
            "--run.eval_every=10240",
            "--run.progress_bar=false",
        ]
    )
    folder = Path("runs/own")
    figures = json.loads((folder / "evaluation-test.json").read_text("utf-8"))["joint"]
    for name, row in figures.items():
        print(f"{name}: Sharpe ratio {row['sharpe_ratio']:.2f} in the test period")
    print(f"equity, drawdown, position and volatility: {folder / 'equity-test.png'}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
