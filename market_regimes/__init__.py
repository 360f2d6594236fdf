"""
Market data with volatility regimes, a trading environment on it, and the evaluation of agents trained there.

    from market_regimes import Agent

    agent = Agent.load("runs/x")
    agent.signal(prices)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from market_regimes.config import MarketConfig, RunConfig, TradingCosts
    from market_regimes.market.environment import MarketEnv
    from market_regimes.run.agent import Agent
    from market_regimes.run.signal import Signal
    from market_regimes.run.study import Study

__all__ = ["Agent", "MarketConfig", "MarketEnv", "RunConfig", "Signal", "Study", "TradingCosts"]
_WHERE = {
    "Agent": "run.agent",
    "MarketConfig": "config",
    "MarketEnv": "market.environment",
    "RunConfig": "config",
    "Signal": "run.signal",
    "Study": "run.study",
    "TradingCosts": "config",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: its module needs torch, and others of this package do not."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
