"""Variants x seeds x folds, with statistics and a report."""
