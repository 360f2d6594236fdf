"""Prices in, steps out: files of prices, the bars of each symbol, regimes, and the environment on them."""
