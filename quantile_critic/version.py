"""The version of the distribution, in the only place. Without any import, as the command line prints it at once."""

__version__ = "0.2.0"
