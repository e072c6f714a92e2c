# A new user needs `make demo` and `make test`. Each sets up what it needs first.
PYTHON ?= python3.11
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
export PYTHON

.PHONY: demo test test-fast packages lint format types check sums clean

# one whole run, from class names to an evaluated segmenter
demo: .venv/ready
	$(BIN)/segmint run --config demo.toml

# every test: real servers, a real browser, real training
test: packages .venv/ready
	$(BIN)/python -m pytest

# the loop of a person who changes code: no server, no browser, nothing slow
test-fast: .venv/ready
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "not server and not browser and not debian and not slow and not security"

packages:
	.ci/packages tests

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/ready
	$(BIN)/mypy

check: lint types test

# torch comes last and by its exact version, in whichever build pip finds. Without their dependencies the others
# ask for none.
.venv/ready: requirements.lock requirements.sums pyproject.toml
	.ci/packages setup
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
