# `make demo` and `make test` are all a new user needs; both make .venv first.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: demo test lint types check sums clean

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

PIP := $(BIN)/pip --quiet --disable-pip-version-check

# torch last and by its exact version, of whichever build pip finds; without their dependencies the others ask for none
.venv/ready: requirements.lock requirements.sums pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) install --no-deps --require-hashes --requirement requirements.sums
	$(PIP) install "$$(grep '^torch==' requirements.lock)"
	$(PIP) install --no-deps --editable .
	touch $@

# after a change of requirements.lock
sums:
	grep -v '^torch==' requirements.lock > .venv/sums.txt
	$(PIP) install --dry-run --ignore-installed --no-deps --report .venv/sums.json --requirement .venv/sums.txt
	$(BIN)/python .ci/sums < .venv/sums.json > requirements.sums

clean:
	rm -rf .venv out
