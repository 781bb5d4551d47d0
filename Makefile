# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
JOBS ?= 2

.PHONY: help demo test test-all lint types format clean

help:
	@echo "make demo      install, run recipes/quickstart.yaml on the built-in model, print the report's path"
	@echo "make test      linter, type checker and tests (about 10 minutes on 2 cores)"
	@echo "make test-all  the same with the slow tests"
	@echo "make format    let ruff format the code"
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

# One thread for each process: two processes with two threads each are slower than the sum of their parts.
test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not slow"

test-all: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

format: $(VENV)/.installed-test
	$(BIN)/ruff format onnxviz tests benchmarks tools
	$(BIN)/ruff check --fix onnxviz tests benchmarks tools

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
