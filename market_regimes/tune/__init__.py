"""Hyperparameter search: trials, space, processes."""
