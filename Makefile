# Everything a newcomer needs: `make demo` and `make test` set up their own environment.
#
# The environment is .venv, made on first use (about 3 minutes and 7 GB: lmms-eval brings PyTorch)
# and reused until pyproject.toml changes. PYTHON chooses the interpreter, Python 3.10 or later.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
# Threads that wait by spinning make a busy machine several times slower.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup demo test check clean

help:
	@echo "make demo    run the suite's main job on what ships with it, and look at the result"
	@echo "make test    lint, types and tests"
	@echo "make setup   only the environment, in $(VENV)"
	@echo "make clean   remove the environment and what was written"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@echo "== Setting up $(VENV) (once; about 3 minutes, lmms-eval brings PyTorch) =="
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "longva-eval needs Python 3.10 or later; try: make PYTHON=python3.11 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	@echo "== Demo: V-NIAH, a sweep, a comparison and a page, on what ships with the package =="
	$(BIN)/longva-eval demo --out out/demo

test: check
	@echo "== Tests =="
	$(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)
	@echo "== Lint and types =="
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p longva_eval -p training

clean:
	rm -rf $(VENV) out build dist *.egg-info
