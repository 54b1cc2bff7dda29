# Everything runs in .venv, which is made when it is absent and renewed when setup.py changes.
# Works from any directory (make -C), without root, and offline apart from the package index.

# The interpreter that makes .venv; 3.11 or newer.
PYTHON ?= python3
# Test processes; each takes one core and about 1 GB.
JOBS ?= 2
# More arguments for pytest: make test ARGS="-k masks".
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-all lint format build clean

help: ## list the targets (default)
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(INSTALLED) ## make .venv and install the package and its tools into it

# The stamp is written last, so that an interrupted installation is taken up again. Asking
# for pip rather than python finds a .venv that was left half made.
$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vae_arbcond needs Python 3.11 or newer, but $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.11 venv" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (TensorFlow is large: some minutes, about 3 GB)"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED) ## impute a table and inpaint images; pictures and models in demo/
	@$(BIN)/python -m vae_arbcond.demo --output demo

test: lint ## style and all tests that take less than 20 s each
	@$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-all: lint ## the slow tests, too
	@$(BIN)/python -m pytest -n $(JOBS) -m "" $(ARGS)

lint: $(INSTALLED) ## ruff, as `make test` runs it
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

format: $(INSTALLED) ## let ruff repair what it can
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

build: $(INSTALLED) ## source archive and wheel in dist/
	@$(BIN)/python -m build

clean: ## remove builds and caches; keeps .venv, runs/ and demo/
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
