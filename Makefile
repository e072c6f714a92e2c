# `make demo` and `make test` are all a new user needs; both make .venv first.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint types check clean

demo: .venv/ready
	$(BIN)/segmint run --config demo.toml

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

check: lint types test

# torch first, by its exact version: with it present no other package asks for a build of its own choice
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv out
