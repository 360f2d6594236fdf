"""Market data with volatility regimes, a trading environment on it, and the evaluation of agents trained there."""
