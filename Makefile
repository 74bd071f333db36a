# demo, test and long set up .venv by themselves; nothing has to be installed before.
PYTHON ?= python3
ACCELERATOR ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(ACCELERATOR)
# Files of tests go to workers whole: what a file builds once is built once.
WORKERS := -n auto --maxprocesses 4 --dist loadfile

ifeq ($(ACCELERATOR),cpu)
JAX_BUILD :=
else ifeq ($(ACCELERATOR),cuda)
JAX_BUILD := "jax[cuda13]"
else ifeq ($(ACCELERATOR),tpu)
JAX_BUILD := "jax[tpu]"
else
$(error ACCELERATOR is '$(ACCELERATOR)'; it can be cpu, cuda or tpu)
endif

.PHONY: demo test long check setup clean

demo: $(READY)
	$(BIN)/python -m launch.quickstart

test: $(READY)
	$(BIN)/python -m pytest -q $(WORKERS)

long: $(READY)
	$(BIN)/python -m pytest -q -m long

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

setup: $(READY)

# pip compiles nothing: Python does, what is really imported and when it first is. Some images forbid
# it to keep the result, and every command would then take seconds longer.
export PYTHONDONTWRITEBYTECODE :=

$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile -r requirements.txt $(JAX_BUILD)
	touch $@

clean:
	rm -rf $(VENV) build dist reports *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
