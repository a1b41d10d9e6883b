# Two commands for a fresh machine with Python 3.11 or newer and nothing else:
#   make demo    set up, then train on the documentation of Python's own library (about ten minutes)
#   make test    set up, then check and test everything
# Others: make check, make torture, make setup. `make PYTHON=python3.12 VENV=elsewhere test` chooses the two paths.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Touched after a complete installation, so that a second call reinstalls nothing and an interrupted one is finished.
STAMP := $(VENV)/.installed

.PHONY: help setup demo test check torture

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

setup: $(STAMP)

demo: $(STAMP)
	@echo "==> Training: finetune train recipes/python-docs.yaml"
	@$(BIN)/finetune train recipes/python-docs.yaml

test: check
	@echo "==> Testing: pytest, in as many processes as there are cores"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP)
	@echo "==> Checking the format: ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> Checking the code: ruff check"
	@$(BIN)/ruff check .
	@echo "==> Checking the types: mypy"
	@$(BIN)/mypy
	@echo "==> Checking the structure: tests/test_layers.py, tests/test_project.py"
	@$(BIN)/python -m pytest -q tests/test_layers.py tests/test_project.py

torture: $(STAMP)
	@echo "==> Killing and resuming many runs: benchmarks/torture.py"
	@$(BIN)/python benchmarks/torture.py

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: there is no command '$(PYTHON)'. Install Python 3.11 or newer, or name yours: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1), and finetune needs 3.11 or newer. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "==> Setting up Python in $(VENV) (once)"
	@test -x "$(BIN)/pip" || "$(PYTHON)" -m venv "$(VENV)"
	@echo "==> Installing the versions of constraints.txt (once; torch is large, so this takes some minutes)"
	@"$(BIN)/python" -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[offline,dev]"
	@touch "$@"
