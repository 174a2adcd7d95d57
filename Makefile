# `make demo` and `make test` need nothing but python3 (3.11 or newer), make and a package index.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help demo test battery lint format bench venv lock audit wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    back up, change, back up again, verify and restore a real tree on a local S3 server"
	@echo "make test    the whole check: lint, then every test, with coverage"
	@echo "make battery every case of the reliability and security battery; may take two hours"
	@echo "make lint    ruff, mypy --strict, import contracts"
	@echo "make format  let ruff rewrite what it can"
	@echo "make bench   asyncbackup beside its peers, into docs/benchmarks.md; takes long (BENCH_ARGS)"
	@echo "make venv    the environment in $(VENV), exactly as requirements.lock says"
	@echo "make lock    resolve the dependencies anew and write requirements.lock"
	@echo "make audit   ask the advisory databases about every locked version; needs the network"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove the environment and all that was built"

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "asyncbackup needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: venv
	$(BIN)/python -m demo

# PYTEST_ARGS narrows a run, for example: make test PYTEST_ARGS="tests/unit -x"
test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --cov --cov-report term:skip-covered $(PYTEST_ARGS)

# A selection of it is part of every test run. BATTERY_SEED=N draws other cases.
battery: venv
	$(BIN)/python -m tests.battery --numprocesses 2 $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# BENCH_ARGS narrows a run, for example: make bench BENCH_ARGS="--trees small --files 5000 --runs 1"
bench: venv
	$(BIN)/python -m benchmarks --install --publish $(BENCH_ARGS)

lock: venv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --no-strip-extras --quiet \
		--no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" --upgrade --output-file requirements.lock

# Before each release. pip-audit brings many packages along, so it has an environment of its own.
audit: venv
	$(BIN)/uvx pip-audit --disable-pip --require-hashes --requirement requirements.lock

wheel: venv
	$(BIN)/python -m hatchling build --target wheel

clean:
	rm -rf $(VENV) .bench-venv bench-work build dist demo-work .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find asyncbackup tests demo -name __pycache__ -prune -exec rm -rf {} +
