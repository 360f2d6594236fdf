"""Comparison of variants over seeds and folds, with statistics and a report."""
