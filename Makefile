# The five commands of the house. Each runs in the environment that is active.
.PHONY: install test check docs dist

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

dist:  ## wheel and source distribution, into build/dist
	python -m build --outdir build/dist .
	twine check --strict build/dist/*
