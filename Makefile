# Everything a developer runs. Needs make, python3 (3.11 or newer) and python3-venv; the rest goes into $(VENV).
#
#   make test PYTHON=python3.13      another Python, in a virtual environment of its own
#   make test JOBS=4 PYTEST_ARGS=-x  four test processes, further arguments for pytest

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
CONSTRAINTS ?= constraints.txt

ifeq ($(PYTHON),python3)
VENV ?= .venv
else
VENV ?= .venv-$(notdir $(PYTHON))
endif
BUILD := .build
GENERATOR := $(BUILD)/generator-$(notdir $(PYTHON))

BIN := $(VENV)/bin
READY := $(VENV)/.ready
GENERATOR_READY := $(GENERATOR)/.ready
PROTOS := $(GENERATOR)/bin/python tools/protos.py --plugins $(BIN)
CODE := tcc tcc_server services tests benchmarks tools/docs.py tools/demo_full.py deploy/load.py deploy/health.py

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.PHONY: help venv demo demo-full test test-floor test-outage servers lint format pytest protos protos-check docs test-node freeze-protos bench bench-quick bench-compare bench-scaling bench-plots \
        bench-publish clean check-python

help: ## Show this list
	@echo "The TCC toolkit. Targets:"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

demo: $(READY) ## Run 40 bank transfers with crashes, and prove that no money was lost
	@$(BIN)/tcc demo

demo-full: $(READY) servers ## Run orders and transfers with crashes on private RabbitMQ, Redis and PostgreSQL
	@$(BIN)/python -m tools.demo_full

test: lint protos-check pytest ## Run all checks and tests, as CI does

lint: $(READY) ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "lint: not formatted; run 'make format'" >&2; exit 1; }
	@$(BIN)/mypy $(CODE)

format: $(READY) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

servers: | check-python ## Install RabbitMQ, Redis and PostgreSQL for the tests, where they are missing
	@$(PYTHON) tools/servers.py

pytest: $(READY) servers ## Run the tests alone
	@$(BIN)/pytest -n $(JOBS) $(PYTEST_ARGS)

# What is left out looks at the pinned versions, at what mypy says in its newest version, or mixes old and new itself.
test-floor: ## Run the tests with the oldest versions that are supported
	@$(MAKE) --no-print-directory pytest VENV=.venv-floor CONSTRAINTS=constraints-floor.txt \
	  PYTEST_ARGS="--ignore=tests/project --ignore=tests/typing --ignore=tests/versions $(PYTEST_ARGS)"

test-outage: $(READY) servers ## Stop RabbitMQ for 30 s under load (in make test it is a few seconds)
	@TCC_TEST_OUTAGE=30 $(BIN)/pytest tests/rabbitmq/test_broker_faults.py -k stopped $(PYTEST_ARGS)

protos: $(READY) $(GENERATOR_READY) ## Generate the committed stubs from protos/
	@$(PROTOS) write

protos-check: $(READY) $(GENERATOR_READY) ## Check that the committed stubs are what protos/ gives
	@$(PROTOS) check

docs: $(READY) ## Make the parts of docs/ that come from the code
	@$(BIN)/python tools/docs.py write

test-node: $(READY) ## Run the Node client of docs/other-languages.md (needs node and npm, and their registry)
	@$(BIN)/python -m tests.docs.node_client

freeze-protos: $(READY) ## Take the present contract as the frozen one (after adding to it)
	@$(BIN)/python -m tests.project.frozen_contract

bench: $(READY) servers ## Measure all workloads (about ten minutes; arguments: BENCH_ARGS)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: $(READY) servers ## Measure the headline rows, in under a minute
	@$(BIN)/python -m benchmarks --quick $(BENCH_ARGS)

bench-compare: $(READY) servers ## Measure BASE=revision and the working tree in turns
	@test -n "$(BASE)" || { echo "make: say what to compare with: make bench-compare BASE=HEAD" >&2; exit 2; }
	@$(BIN)/python -m benchmarks.compare $(BASE) $(BENCH_ARGS)

bench-scaling: $(READY) servers ## Measure the cost beside many rows, open transactions and branches
	@$(BIN)/python -m benchmarks.scaling $(BENCH_ARGS)

bench-plots: $(READY) ## Make the tables and plots of docs/performance.md from benchmarks/results
	@$(BIN)/python -m benchmarks.report write

bench-publish: $(READY) servers ## Measure all of it anew, for docs/performance.md (on a machine that does nothing else)
	@$(BIN)/python -m benchmarks --json benchmarks/results/figures.json
	@$(BIN)/python -m benchmarks.scaling --json benchmarks/results/scaling.json
	@$(BIN)/python -m benchmarks.report write

clean: ## Remove virtual environments, caches and build results
	rm -rf .venv .venv-* $(BUILD) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

venv: $(READY) ## Make the virtual environment alone

# What is missing on this machine, before anything else fails in a way that is harder to read.
check-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) here. Install it (Debian: apt-get install python3 python3-venv)" \
	       "or name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V), too old: 3.11 or newer is needed." \
	       "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot make virtual environments. Debian: apt-get install python3-venv" >&2; exit 1; }

# hatchling goes in first and pinned, so that building the editable install fetches nothing unpinned.
$(READY): pyproject.toml $(CONSTRAINTS) | check-python
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing pinned dependencies into $(VENV) (about a minute the first time)"
	@$(BIN)/python -m pip install -qq -c $(CONSTRAINTS) hatchling editables
	@$(BIN)/python -m pip install -qq -c $(CONSTRAINTS) --no-build-isolation -e '.[dev]'
	@touch $@

# Generated code refuses a runtime older than its generator, so it is generated by the oldest grpcio-tools that we
# support. That needs a protobuf of the same age, and therefore a virtual environment of its own.
$(GENERATOR_READY): tools/protos-requirements.txt | check-python
	@test -x $(GENERATOR)/bin/python || $(PYTHON) -m venv $(GENERATOR)
	@echo "Installing the stub generator into $(GENERATOR)"
	@$(GENERATOR)/bin/python -m pip install -qq -r tools/protos-requirements.txt
	@touch $@
