# Every target makes the environment (.venv) if it is missing or does not belong to this pyproject.toml.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help env demo test test-all test-paper lab lint bench gpu notebooks pair browser doctor clean

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

# The stamp's name holds the content of pyproject.toml: another content, another stamp, a new installation.
HASH  := $(shell (sha256sum pyproject.toml 2>/dev/null || shasum -a 256 pyproject.toml) | cut -c1-16)
STAMP := $(VENV)/.ready-$(HASH)

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

env: $(STAMP)  ## the environment in .venv (done by every other target)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kd-workbench needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@rm -f $(VENV)/.ready-*
	@touch $@

demo: $(STAMP)  ## distil on real digits, execute the lessons, write runs/<id>/report.html
	$(BIN)/kdw demo

lab: $(STAMP)  ## JupyterLab on the start page
	$(BIN)/kdw lab

test: $(STAMP) browser  ## the tests: units, contracts, notebooks against baselines, browser
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not inductor"

test-all: $(STAMP) browser  ## all tests: also every lesson, and machine code of every objective
	KDW_ALL_LESSONS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-paper: $(STAMP)  ## all that proves one paper, PAPER=slug, in two minutes
	$(BIN)/kdw check $(PAPER)

lint: $(STAMP)  ## style, format, types, import direction, notebook pairs, README table
	@failed=; \
	for step in "ruff check ." "ruff format --check ." mypy lint-imports "kdw pair --check" "python -m workbench.readme --check"; do \
	  echo "== $$step"; $(BIN)/$$step || failed="$$failed [$$step]"; done; \
	if [ -n "$$failed" ]; then echo "lint: failed:$$failed" >&2; exit 1; fi

notebooks: $(STAMP)  ## execute all notebooks and compare their numbers with the baselines
	$(BIN)/kdw notebooks -j $(WORKERS)

pair: $(STAMP)  ## generate the notebooks from their scripts
	$(BIN)/kdw pair

bench: $(STAMP)  ## measure what is claimed about speed: table, and runs/benchmarks.json
	$(BIN)/python -m benchmarks

gpu: $(STAMP)  ## on a CUDA card: its tests, values and speed in fp32, bf16, fp16, one CIFAR-10 study (8 minutes at most)
	$(BIN)/python -m benchmarks.gpu

doctor: $(STAMP)  ## look at versions, kernel, GPU, browser, folders
	$(BIN)/kdw doctor

# The browser tests use the system's Chromium. Where it is missing it is installed if that is possible (root, apt-get);
# otherwise the tests are skipped, and say so. NO_BROWSER_INSTALL=1 leaves the system alone.
browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  command -v $$name >/dev/null 2>&1 && exit 0; done; \
	if [ -n "$(NO_BROWSER_INSTALL)" ]; then why="NO_BROWSER_INSTALL is set"; \
	elif [ "$$(id -u)" != 0 ]; then why="not root"; \
	elif ! command -v apt-get >/dev/null 2>&1; then why="no apt-get"; \
	else echo "browser: installing chromium"; \
	  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 \
	    && exit 0; why="apt-get failed"; fi; \
	echo "browser: SKIPPED: there is no Chromium and it was not installed ($$why); the browser tests will be skipped."

clean:  ## remove environment, caches and runs
	rm -rf $(VENV) runs .kdw-cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
