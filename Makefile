# Every target sets up what it needs on a machine with Python 3.11 to 3.13, make and pip.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN    := .venv/bin
STAMP  := .venv/installed
PYTEST := HF_HUB_OFFLINE=1 WANDB_MODE=offline $(BIN)/python -m pytest
# Two tests at a time, in the order and the groups of tests/support/scheduling.py.
PARALLEL := -n 2 --no-loadscope-reorder
# Processes by the hundred, each of which would compile what it imports of the checkout.
unexport PYTHONDONTWRITEBYTECODE
# The oldest versions that pyproject.toml allows, in a separate environment; torch is a CUDA build there.
FLOOR  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/distft/floor-venv
FLOOR_PYTEST := HF_HUB_OFFLINE=1 WANDB_MODE=offline $(FLOOR)/bin/python -m pytest $(PARALLEL) -q -p no:cacheprovider

.PHONY: help venv demo test check soak floor format freeze support docs models clean

help:
	@echo "make venv    the environment, in .venv"
	@echo "make demo    fine-tune a real 135M model on 2 processes, before and after on held-out rows, a report"
	@echo "make test    the whole test suite"
	@echo "make check   style, types and the fast tests"
	@echo "make soak    the long tests"
	@echo "make floor   fast tests, parity and whole runs on the oldest supported versions: 6 GB, outside of the checkout"
	@echo "make format  format the code with ruff"
	@echo "make freeze  write the installed versions to constraints.txt"
	@echo "make support write docs/support.md from the proofs in docs/proofs"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make models  check every model type of the installed transformers, into docs/models.md"

venv: $(STAMP)

# torch is installed first and alone: if an index offers several builds, pip picks one that matches the pin.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python -m distft.demo

test: $(STAMP)
	$(PYTEST) $(PARALLEL) -m "not soak" --durations=10

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --summary=none & types=$$!; \
	$(PYTEST) $(PARALLEL) -q -m "not slow and not soak"; tests=$$?; \
	wait $$types && exit $$tests

soak: $(STAMP)
	$(PYTEST) -m soak

floor:
	test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m tests.floors constraints $(FLOOR)/floors.txt
	$(FLOOR)/bin/python -m pip install --quiet --upgrade pip
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/floors.txt --editable '.[dev]'
	$(FLOOR)/bin/python -W ignore -m tests.floors signatures tests/floors.json
	$(FLOOR_PYTEST) -m "not slow and not soak"
	$(FLOOR_PYTEST) -m "slow and not soak" tests/strategies/test_parity.py tests/checkpoint/test_round_trip.py \
	    tests/models tests/losses tests/config tests/launch/test_launch.py tests/compat

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

freeze: $(STAMP)
	( echo "# What the tests ran with (Python 3.11, Linux). Refresh: make freeze"; \
	  $(BIN)/python -m pip freeze --exclude distft --exclude-editable | sed 's/+cpu$$//' ) > constraints.txt

# What runs on what: docs/proofs holds a folder for each machine, with proof.jsonl and machine.json of distft prove.
support: $(STAMP)
	$(BIN)/python -m distft.prove.support

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Every causal model type of the installed transformers, checked as a base model is before a run: some minutes.
models: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m distft.prove.models

clean:
	rm -rf .venv build dist site .pytest_cache .ruff_cache .hypothesis
