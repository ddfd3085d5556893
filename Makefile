# Two commands matter on a fresh machine: `make demo` and `make test`.
# Both set up everything they need first; a second run starts in seconds.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(or $(INFERN_BENCH_PEERS),$(HOME)/.cache/infern-bench)
LITELLM := $(PEERS)/litellm/.installed
NODE_STAMP := tests/clients/node/node_modules/.installed
WORKERS ?= auto
CLIENTS_VENV := .venv-clients
CLIENTS_STAMP := $(CLIENTS_VENV)/.installed

.PHONY: help soak setup demo test lint slow bench overload test-real format lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## .venv with everything; .venv/bin/infern is the program

$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Infern needs Python 3.11 or newer; this is %d.%d. Set PYTHON=/path/to/python3.11." % v[:2])'
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing locked dependencies (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(NODE_STAMP): tests/clients/node/package-lock.json
	@cd tests/clients/node && npm ci --silent --no-audit --no-fund
	@touch $@

# Clients with many dependencies live apart, so that none of them decides what we run with.
$(CLIENTS_STAMP): requirements/clients.lock
	@test -x $(CLIENTS_VENV)/bin/python || { echo "creating $(CLIENTS_VENV)"; $(PYTHON) -m venv $(CLIENTS_VENV); }
	@echo "installing locked clients for the tests (about a minute the first time)"
	@$(CLIENTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/clients.lock
	@touch $@

demo: setup  ## the whole network on this machine: 402, payment, proof, answer
	@$(BIN)/infern demo

test: setup $(NODE_STAMP) $(CLIENTS_STAMP) lint  ## style, types, imports and the default tests, on WORKERS cores
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

lint: setup  ## formatting, lint, types and import rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .lint-imports.log || { cat .lint-imports.log; exit 1; }

slow: setup $(NODE_STAMP) $(CLIENTS_STAMP)  ## the slower suites that .ci/run adds
	@$(BIN)/python -m pytest -q -m slow

test-real: setup  ## the suites that need real ckb and fnn nodes
	@$(BIN)/python -m pytest -q -m real -rs

soak: setup  ## many simulated worlds; a wrong one prints how to repeat it
	@$(BIN)/python -m infern.simulator --seed 0 --runs 2000 --counts

bench: setup $(LITELLM)  ## speed beside nginx and LiteLLM in one run, ten minutes; results in benchmarks/runs
	@INFERN_BENCH_PEERS=$(PEERS) $(BIN)/python -m benchmarks.run

overload: setup  ## an agent under attack while others pay; results in benchmarks/runs
	@$(BIN)/python -m benchmarks.overload

# Large, slow to install and no part of Infern: it stays outside the tree. Without it the benchmark
# says loudly that it was not measured.
$(LITELLM): benchmarks/requirements/litellm.lock
	@echo "installing LiteLLM for the comparison (once, minutes)"
	@$(PYTHON) -m venv $(PEERS)/litellm
	@$(PEERS)/litellm/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< \
	  && touch $@ || echo "LiteLLM could not be installed"

format: setup  ## rewrite the code in the project's format
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

lock:  ## recompute the locks with hashes and no download addresses (needs uv)
	uv pip compile -q pyproject.toml --extra demo --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/runtime.lock
	uv pip compile -q pyproject.toml requirements/dev.in --extra demo --extra mpp --extra x402 \
	  --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/dev.lock
	uv pip compile -q requirements/clients.in --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/clients.lock
	uv pip compile -q models/tiny/requirements.in --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o requirements/train.lock
	uv pip compile -q benchmarks/requirements/litellm.in --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -o benchmarks/requirements/litellm.lock

clean:  ## remove what the commands above made
	rm -rf $(VENV) $(CLIENTS_VENV) tests/clients/node/node_modules .lint-imports.log
