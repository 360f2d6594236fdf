"""The search for settings: trials, space, processes."""
