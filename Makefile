# Everything a person or a machine does with this repository. `make` alone lists it.

PYTHON ?= python3
JOBS   ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
WANTED := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help .venv demo test coverage test-slow lint docs bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: $(VENV)/dev.stamp ## an environment with everything that developing needs

demo: $(VENV)/core.stamp ## make, learn and judge a synthetic plant; prints where the report is
	$(BIN)/auscult demo

test: $(VENV)/dev.stamp ## the fast tests
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(PYTEST_FLAGS)

coverage: $(VENV)/dev.stamp ## the fast tests, and how much of the package they run; its floor is in pyproject.toml
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" --cov --cov-report=term

test-slow: $(VENV)/dev.stamp ## the tests that take minutes
	$(BIN)/python -m pytest -n $(JOBS) -m slow

lint: $(VENV)/dev.stamp ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/dev.stamp ## build the documentation into site/, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/dev.stamp ## speed and memory beside the field's usual tools
	$(BIN)/python benchmarks/run.py

clean: ## delete what was built and cached; the environment and demo/ stay
	rm -rf site build dist src/*.egg-info .coverage .coverage.* coverage.xml .benchmarks
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is younger than what it was made from, or the environment is brought up to date. An environment that has
# everything has the core too; one with the core alone is enough for the demo.

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and f"auscult needs Python 3.11 or later; $(PYTHON) is {v[0]}.{v[1]}. Name another: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: $(WANTED) | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/dev.stamp: $(WANTED) | $(VENV)/bin/python
	$(PIP) -e ".[dev]"
	@touch $(VENV)/core.stamp $@
