# Every target makes what it needs; nothing by hand before but git, make and Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_WAIT_POLICY := PASSIVE
# Containers often set it; without bytecode every process compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE
# One test process per core, up to four; each test uses one thread.
PARALLEL ?= -n auto --maxprocesses=4 --dist=worksteal

.PHONY: help setup setup-slow run test test-slow test-soak lint audit format docs wheel bench bench-quick clean
.DEFAULT_GOAL := setup

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(VENV)/.ready ## make .venv and install everything into it

$(VENV)/.ready: pyproject.toml constraints.txt .ci/install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "installing into $(VENV), which takes some minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PYTHON) .ci/install $(VENV) dev,rl,backbone
	@touch $@

# What the slow tests need besides: Lightning, accelerate, torchdata, TorchRL, a Ray cluster of this
# machine, Optuna, ONNX, and mkdocs.
setup-slow: $(VENV)/.ready-slow ## what the slow tests need besides

$(VENV)/.ready-slow: $(VENV)/.ready
	@$(PYTHON) .ci/install $(VENV) dev,rl,backbone,docs,examples,export,ray,sweep
	@touch $@

run: setup ## train 12 networks on Fashion-MNIST, print a table, a plot and a link
	$(BIN)/gstds compare --policies gstds random full --seeds 3 --dataset fashion-mnist --limit 10000 --workers 2 --out runs/first

test: setup ## the quick tests
	$(BIN)/python -m pytest -q $(PARALLEL)

test-slow: setup-slow ## the slow tests
	$(BIN)/python -m pytest -q -m slow $(PARALLEL)

test-soak: setup ## the full counts of the slow tests: up to hours
	$(BIN)/python -m pytest -q -m soak $(PARALLEL)

lint: setup ## style, types, private names and which package imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typed_tree
	MYPYPATH=build/typed $(BIN)/mypy
	cd build/typed && $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache
	$(BIN)/python .ci/private_names

audit: setup ## ask what is known against the installed packages, or check their hashes
	$(BIN)/python .ci/audit $(VENV)

format: setup ## put the sources into their style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.ready-docs ## the documentation site, in build/site; what leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "build/site/index.html is there; to search it too: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site"

$(VENV)/.ready-docs: $(VENV)/.ready
	@$(PYTHON) .ci/install $(VENV) dev,rl,backbone,docs
	@touch $@

wheel: setup ## the wheel and the source distribution, in dist/
	$(BIN)/python .ci/wheel dist

bench: setup ## measure docs/performance.md again, on an idle machine
	$(BIN)/python benchmarks/performance_page.py --run

bench-quick: setup ## try every benchmark, in under five minutes; docs stay as they are
	$(BIN)/python benchmarks/performance_page.py --run --quick --out runs/bench-quick

clean: ## remove what make has made
	rm -rf $(VENV) build dist *.egg-info
