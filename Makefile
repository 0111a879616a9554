# Everything a newcomer needs: `make demo` and `make test` set up their own environment.
#
# .venv is made on first use, of exactly the packages that the tests were run with
# (requirements.lock), and reused until that file or pyproject.toml changes.
# PYTHON chooses the interpreter, Python 3.10 to 3.13.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
SHELL  := bash
.SHELLFLAGS := -eu -o pipefail -c
# Threads that wait by spinning make a busy machine several times slower.
export OMP_WAIT_POLICY := PASSIVE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# 200 processes of the tests would each compile this package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo study test quick quick-tests check newest oldest lock clean

help:
	@echo "make demo     run the suite's main job on what ships with it, and look at the result"
	@echo "make study    frame policies x positions x presses on four needle tests (docs/axes.md)"
	@echo "make test     lint, types and all tests"
	@echo "make quick    lint, types and the tests that start no process and take under a fifth of a second each"
	@echo "make setup    only the environment, in $(VENV)"
	@echo "make newest   does it still work with the newest packages? (in .venv-newest)"
	@echo "make oldest   and with the oldest that pyproject.toml admits? (in .venv-oldest)"
	@echo "make lock     write requirements.lock anew for pyproject.toml (UPGRADE=1: newest packages)"
	@echo "make clean    remove the environments and what was written"

setup: $(STAMP)
	@echo "$(VENV) is ready: $(BIN)/longva-eval doctor looks at it, make demo shows what it does."

# --no-deps: the lock is complete, and pip 23 asks for hashes of extras that it names otherwise.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; (3, 10) <= sys.version_info < (3, 14) or sys.exit(f"requirements.lock is for Python 3.10 to 3.13, and $(PYTHON) is {sys.version.split()[0]}. Try: make setup PYTHON=python3.12")'
	@echo "== Setting up $(VENV), once: 3 GB to download, 7 GB on disk (lmms-eval brings PyTorch) =="
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --no-deps --use-pep517 --require-hashes \
	    --requirement requirements.lock | awk ' \
	    /^Collecting/ { if (++n % 40 == 0) print "   " n " packages fetched" } \
	    /^Installing collected/ { print "   unpacking " n " packages" } { fflush() }'
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/longva-eval demo --out out/demo

study: $(STAMP)
	@$(BIN)/longva-eval sweep docs/axes_study.yaml --out out/study

test: check
	@echo "== All tests =="
	@$(BIN)/python -m pytest -n auto --dist loadfile

quick: $(STAMP)
	@$(MAKE) --no-print-directory --jobs 2 check quick-tests

quick-tests:
	@echo "== Quick tests =="
	@$(BIN)/python -m pytest -q --forks -m "not process and not browser and not slow" --hypothesis-profile quick

check: $(STAMP)
	@echo "== Lint and types =="
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p longva_eval -p training $(patsubst benchmarks/%.py,-m %,$(wildcard benchmarks/*.py))

newest oldest: $(STAMP)
	@$(BIN)/python .ci/other_versions.py $@

lock: $(STAMP)
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --generate-hashes \
	    --prerelease disallow --no-annotate --no-header --quiet $(if $(UPGRADE),--upgrade) \
	    --output-file requirements.lock
	@echo "requirements.lock is written. Now: make test"

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest out build dist *.egg-info
