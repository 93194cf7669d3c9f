# `make` lists the targets. OMP_NUM_THREADS=1: the tests' models are tiny, and a second
# thread costs more than it brings.
export OMP_NUM_THREADS = 1
PYTEST = python -m pytest -q

.PHONY: help setup fast test gpu lint docs lowest clients

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup:  ## install the package for development, and the commit hooks
	python -m pip install -e ".[all,dev,docs]"
	pre-commit install

fast:  ## lint and the fast tests, in about two minutes
	ruff check . && ruff format --check .
	$(PYTEST) -m "not slow and not gpu" -n auto --dist loadfile

test:  ## all tests
	$(PYTEST) -n auto --dist loadfile

gpu:  ## the tests that need a CUDA device
	$(PYTEST) -m gpu

lint:  ## ruff, codespell and mypy
	ruff check . && ruff format --check .
	codespell
	mypy

docs:  ## build the documentation into docs/_build; warnings are errors
	python -m sphinx -q -W --keep-going docs docs/_build

lowest:  ## import and smoke-test the package on the lowest versions it allows
	scripts/check_lowest.sh

clients:  ## test Ray, RLlib, TorchRL and other heavy clients in their own environment
	scripts/check_clients.sh
