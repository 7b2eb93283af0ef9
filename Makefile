# Everything is installed into .venv, from pyproject.toml alone. `make` prints the targets.
PROFILE ?= quick
ARGS ?=
# An NVIDIA GPU: `make setup GPU=1` adds the extra `gpu`; the other targets find what is installed.
GPU ?=
# Which Python `make core` tries.
WITH ?= python3

PYTHON := .venv/bin/python
# Written last, so that a failed or killed installation is tried again.
INSTALLED := .venv/.installed$(if $(GPU),-gpu)
comma := ,
READY := $(if $(GPU),$(INSTALLED),$(or $(firstword $(wildcard .venv/.installed-gpu)),$(INSTALLED)))

.DELETE_ON_ERROR:
.PHONY: help setup run demo test test-all browser core lab lint clean

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## install into .venv (again only when pyproject.toml changed); GPU=1 for an NVIDIA GPU

.venv/.installed .venv/.installed-gpu: pyproject.toml
	@rm -f .venv/.installed .venv/.installed-gpu
	@if ! $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	    for python in python3.11 python3.12 python3; do \
	        if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; \
	        then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "make setup: needs Python 3.11 or 3.12 with its venv module (Debian: apt install python3-venv)" >&2; \
	        exit 1; \
	    fi; \
	    echo "making .venv with $$found" && $$found -m venv --clear .venv; \
	fi
	$(PYTHON) -m pip install --quiet --upgrade 'pip>=25.1'
	$(PYTHON) -m pip install -e '.[notebooks$(if $(filter %-gpu,$@),$(comma)gpu)]' --group test
	$(PYTHON) -m pip install --no-deps --group unbundled
	@touch $@

run: $(READY) ## run the notebooks: PROFILE=quick ARGS="--set seed=1 --run again"
	$(PYTHON) -m artlib run --profile $(PROFILE) $(ARGS)

demo: $(READY) ## run the published demo, a world four times as large
	$(PYTHON) -m artlib run --profile demo $(ARGS)

# Several processes of one thread each: the tests' models are too small to keep two threads busy.
PYTEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(READY) ## the default tier of tests
	$(PYTEST) $(ARGS)

test-all: $(READY) ## every test, the slow ones too, one after the other
	$(PYTHON) -m pytest -m "" $(ARGS)

browser: $(READY) ## the notebooks in JupyterLab in Chromium (Debian: apt install chromium)
	$(PYTHON) -m pip install --quiet --group browser
	$(PYTHON) -m pytest -m browser $(ARGS)

# JUPYTER_PATH would put other kernels before this environment's. Root is common in containers.
lab: $(READY) ## open the notebooks in JupyterLab
	env -u JUPYTER_PATH JUPYTER_PREFER_ENV_PATH=1 $(PYTHON) -m jupyterlab \
	    $(if $(filter 0,$(shell id -u)),--allow-root) notebooks $(ARGS)

core: ## the tests of what `pip install .` alone gives, in an environment of its own; WITH=python3.12
	@$(WITH) -m venv --clear .venv-core
	.venv-core/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-core/bin/python -m pip install --quiet -e . --group core-test
	.venv-core/bin/python -m pytest tests/ope tests/data tests/test_core.py $(ARGS)

lint: $(READY) ## check style, format and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean: ## remove caches; runs/ and .venv stay
	find . -name .venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \
	    -o -name unsloth_compiled_cache \) -exec rm -rf {} +
	rm -rf build .venv-core .mypy_cache .pytest_cache .ruff_cache .hypothesis
