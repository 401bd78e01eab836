# Every command makes the virtual environment it needs; it is made again only when a requirements file changes.

PYTHON ?= $(shell command -v python3.11 >/dev/null 2>&1 && python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
VENV ?= .venv
ARGS ?=
ACCELERATOR ?=
BENCH ?= meta_gradient
PYTEST_ARGS ?= -n 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# The plugin of JAX for a GPU or TPU, where one is asked for.
PLUGIN := $(if $(ACCELERATOR),$(VENV)/.$(ACCELERATOR))
$(if $(filter-out cuda12 cuda13 tpu,$(ACCELERATOR)),$(error ACCELERATOR is $(ACCELERATOR), but can be cuda12, cuda13 or tpu))
$(if $(wildcard benchmarks/$(BENCH).py),,$(error BENCH is $(BENCH), but there is no benchmarks/$(BENCH).py; it can be meta_gradient or projection))

.PHONY: help quickstart test lint bench clean

help:
	@echo "make quickstart   install, then distil, evaluate and report on real data (ARGS=... is handed to the command)"
	@echo "make test         install with test packages, then run the tests (PYTEST_ARGS=... is handed to pytest, by default -n 2)"
	@echo "make lint         install with test packages, then run ruff, pyright and shellcheck"
	@echo "make bench        install with the peers, then measure beside them (BENCH=meta_gradient, or projection; ARGS=... is handed to it: --check compares gradients alone)"
	@echo "ACCELERATOR=cuda13 (or cuda12, tpu) with quickstart, test or bench installs JAX for that as well"
	@echo "make clean        remove the virtual environment and caches; runs/ stays"

quickstart: $(VENV)/.runtime $(PLUGIN)
	$(BIN)/python -m ddllm.main --config configs/quickstart.py $(ARGS)

test: $(VENV)/.test $(PLUGIN)
	$(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/shellcheck launch/*.sh

bench: $(VENV)/.bench $(PLUGIN)
	$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.git/*" -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt requirements-embedded.txt setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing packages into $(VENV) ..."
	$(PIP) -r requirements.txt
	$(PIP) --no-deps -r requirements-embedded.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.cuda12 $(VENV)/.cuda13 $(VENV)/.tpu: $(VENV)/.runtime
	@echo "Installing JAX for $(ACCELERATOR) into $(VENV) ..."
	$(PIP) "jax[$(ACCELERATOR)]==$$(sed -n 's/^jax==//p' requirements.txt)"
	@touch $@

$(VENV)/.test: requirements-test.txt requirements-decoder.txt $(VENV)/.runtime
	@echo "Installing test packages into $(VENV) ..."
	$(PIP) -r requirements.txt -r requirements-test.txt
	$(PIP) --no-deps -r requirements-decoder.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.test
	@echo "Installing the benchmark's peers into $(VENV) ..."
	$(PIP) -r requirements.txt -r requirements-test.txt -r requirements-bench.txt
	@touch $@
