# What a person and the CI run. `make help` lists it; every target installs what it needs first.

PYTHON ?= python3
LISTEN ?=
UPSTREAM ?=
BENCH_OPTIONS ?=
WORKLOAD ?= json
SECONDS ?= 5
RATE ?= 400
TOP ?= 15

VENV := .venv
PY := $(VENV)/bin/python
SDK := .envs/python-2/bin/python
# A virtual environment is bound to its place and its interpreter: moved or upgraded, it is made anew.
KEY := $(shell { pwd; $(PYTHON) -VV; } 2>/dev/null | cksum | cut -d' ' -f1)
MADE := $(VENV)/made-$(KEY)
RUNTIME := $(VENV)/runtime-$(KEY)
DEV := $(VENV)/dev-$(KEY)
BENCH := $(VENV)/bench-$(KEY)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# Not in an environment of its own: what a wheel needs to be compiled is large, and no use here.
EDITABLE := $(PIP) --no-build-isolation --editable
PART := bash .ci/part
COMPILER = command -v cc >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
  && apt-get update -qq && apt-get install --yes -qq --no-install-recommends gcc libc6-dev python3-dev >/dev/null; } || true
COMPILED = $(MAKE) --no-print-directory native || { $(PY) native.py --remove; \
  echo 'not compiled: it runs from its sources, and a call takes up to 1.7 times the CPU'; }
SDK_READY = [ -e $(SDK) ] || echo 'making the environment of the official SDK'; \
  $(PYTHON) tests/support/envs.py python-2 >/dev/null

.DELETE_ON_ERROR:
.PHONY: help install native run demo test test-quick test-long lint bench bench-failover profile docs lock clean \
  envs envs-python envs-node

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

install: $(DEV)  ## the product and its development dependencies, in .venv

native: $(RUNTIME)  ## compile what a call passes through, in place; a minute, then only what changed
	@$(COMPILER)
	@$(PY) native.py

# What cannot be compiled runs from its sources.
run: $(RUNTIME)  ## the proxy before UPSTREAM=url, else before the example server; LISTEN=host:port
	@$(COMPILED)
ifeq ($(UPSTREAM),)
	@$(SDK_READY)
endif
	@exec $(PY) examples/run.py --server-python $(SDK) --upstream '$(UPSTREAM)' --listen '$(LISTEN)'

demo: $(RUNTIME)  ## one client's session outlives its connection and three servers
	@$(COMPILED)
	@$(SDK_READY)
	@exec $(SDK) examples/demo.py --python $(PY)

# pytest comes last: its summary is the final line. Each part has a deadline and is named when it fails.
test:  ## every check there is, from a fresh checkout
	@$(PART) installation 600 $(MAKE) --no-print-directory -j4 install envs
	@$(MAKE) --no-print-directory lint
	@$(PART) sources 480 $(MAKE) --no-print-directory test-quick
	@$(PART) compilation 300 $(MAKE) --no-print-directory native
	@$(PART) pytest 900 $(PY) -m pytest -m ''

test-quick: $(DEV)  ## the tests that need no server and no SDK, on the sources
	@$(PY) native.py --remove
	@$(PY) -m pytest -q -m 'not e2e and not long'

test-long: $(DEV) envs native  ## fuzz, storms and abuse alone
	@$(PART) long 600 $(PY) -m pytest -m long

lint: $(DEV)  ## style, format, strict types, import contracts, docstrings of tests
	@$(PART) ruff 30 $(PY) -m ruff check --quiet .
	@$(PART) format 30 $(PY) -m ruff format --check --quiet .
	@$(PART) mypy 90 $(PY) -m mypy
	@$(PART) import-contracts 30 $(VENV)/bin/lint-imports
	@$(PART) docstrings 30 $(PY) -m interrogate --quiet tests

bench: $(BENCH) native  ## the proxy, nginx, haproxy and Envoy in turn, one table; BENCH_OPTIONS='--only json storm'
	@$(PY) tests/bench/run.py $(BENCH_OPTIONS)

bench-failover: $(DEV) native  ## an upstream of 1,000 sessions killed, and swapped; BENCH_OPTIONS='--only swap --rounds 1'
	@$(PY) tests/bench/failover.py $(BENCH_OPTIONS)

profile: $(DEV)  ## where the CPU of the sources goes; WORKLOAD=json|sse|churn|big_json|big_event SECONDS=5 RATE=400 TOP=15
	@$(PY) tests/bench/hotspots.py --workload $(WORKLOAD) --seconds $(SECONDS) --rate $(RATE) --top $(TOP)

docs: $(DEV)  ## the parts of analysis/ that are made from the code
	@$(PY) analysis/generate.py

lock: $(MADE)  ## write constraints.txt anew, with the newest versions allowed
	@rm -rf build/lock && $(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip install --quiet --disable-pip-version-check '.[dev,bench]'
	@{ sed -n '/^#/p' constraints.txt; build/lock/bin/python -m pip freeze --all --exclude pip --exclude mcp-session-proxy; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt

clean:  ## remove everything that was made here
	$(PYTHON) native.py --remove
	rm -rf $(VENV) .envs build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environments of the official SDKs and Node's packages; each tool knows what is there already.
envs: envs-python envs-node

envs-python:
	@$(PYTHON) tests/support/envs.py

envs-node:
	@$(PYTHON) tests/support/node.py

$(MADE):
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mcp-session-proxy needs Python 3.11 or later with its venv module (Debian: apt-get install python3-venv)." >&2; \
	  echo "'$(PYTHON)' is: $$($(PYTHON) -V 2>&1). Name another with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): pyproject.toml constraints.txt | $(MADE)
	@$(PIP) hatchling
	@$(EDITABLE) '.[native]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(MADE)
	@$(PIP) hatchling
	@$(EDITABLE) '.[dev]'
	@touch $(RUNTIME) $@

# Envoy is a hundred megabytes that no test needs.
$(BENCH): $(DEV)
	@$(EDITABLE) '.[bench]'
	@touch $@
