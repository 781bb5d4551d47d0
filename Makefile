# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2

SCRIPTS := tools/report_scripts
# Node's version is the environment's own, whatever the machine has.
NPM := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/npm --prefix $(SCRIPTS) --no-audit --no-fund --no-update-notifier

.PHONY: help demo test test-all lint types scripts script-tools format clean

help:
	@echo "make demo      install, run recipes/quickstart.yaml on the built-in model, print the report's path"
	@echo "make test      linter, type checker and tests (about 10 minutes on 2 cores)"
	@echo "make test-all  the same with the slow tests"
	@echo "make scripts   check the report's scripts: types, eslint, prettier (installs node from package registries)"
	@echo "make format    let ruff format the code, and prettier the scripts where make scripts was there before"
	@echo "make clean     remove the virtual environment and caches"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[test]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/onnxviz run recipes/quickstart.yaml --out runs/quickstart

lint: $(VENV)/.installed-test
	$(BIN)/ruff check onnxviz tests benchmarks tools
	$(BIN)/ruff format --check onnxviz tests benchmarks tools

types: $(VENV)/.installed-test
	$(BIN)/mypy

$(SCRIPTS)/node_modules/.installed: $(SCRIPTS)/package-lock.json $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e '.[scripts]'
	$(NPM) ci --silent
	@touch $@

script-tools: $(SCRIPTS)/node_modules/.installed

scripts: script-tools
	$(BIN)/python -m tools.report_types > $(SCRIPTS)/island.d.ts
	$(NPM) run --silent types
	$(NPM) run --silent lint
	$(NPM) run --silent style

# One thread for each process: two processes with two threads each are slower than the sum of their parts.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

test-all: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

format: $(VENV)/.installed-test
	$(BIN)/ruff format onnxviz tests benchmarks tools
	$(BIN)/ruff check --fix onnxviz tests benchmarks tools
	if test -d $(SCRIPTS)/node_modules; then $(NPM) run --silent format; fi

clean:
	rm -rf $(VENV) $(SCRIPTS)/node_modules .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
