"""From a path to the bars of every symbol."""
