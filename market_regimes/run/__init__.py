"""A run: training into a folder, resuming it there, evaluating it from there."""
