# The commands of the house. Each runs in the environment that is active.
.PHONY: install test check docs dist flags

install:  ## everything a contributor needs, in the versions that are tested
	pip install -c constraints.txt -e ".[market,recurrent,docs,test]"

test:  ## the whole suite, in two processes
	pytest

check:  ## lint, format and types, as CI runs them
	ruff check .
	ruff format --check .
	mypy

docs:  ## the pages, into build/site
	mkdocs build --strict

flags:  ## the command line's list of the algorithm's flags, from its constructors
	python -m market_regimes.commands.constructors
	ruff format market_regimes/commands/algorithm_flags.py

dist:  ## wheel and source distribution, into build/dist
	python -m build --outdir build/dist .
	twine check --strict build/dist/*
