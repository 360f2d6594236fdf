"""Prices in, steps out."""
