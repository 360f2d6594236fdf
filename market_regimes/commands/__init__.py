"""The commands of the command line, a file for each kind, and what they share."""
