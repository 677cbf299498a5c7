# Two commands: `make drill` runs the library through forced failovers, `make test` tests it.
# Both set up what they need in .venv: a machine with make, Python ≥ 3.11 and pip will do.

SHELL := /bin/sh
VENV := .venv
LOWEST := .venv-lowest
APPS := .venv-apps
BIN := $(VENV)/bin
PY := $(BIN)/python
#: which Python makes .venv; the newest that is found, unless it is given: make PYTHON=…
PYTHON ?=
PSYCOPG ?=
ARGS ?=
APPS_OF ?=
PEER_FILES = $(foreach name,connection cursor cursor_common cursor_client cursor_raw cursor_server \
  copy transaction pipeline prepared tpc notify,tests/test_$(name).py tests/test_$(name)_async.py)
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: help drill test test-more lowest differential soak peer-apps bench-failover bench-continuity bench-orm bench-http bench-scale \
  bench-idle bench-overhead docs generate lint types peer-tests clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

drill: $(VENV)/.drill  ## force failovers on an embedded three-zone lab (ARGS='--runs 5 --json')
	@$(BIN)/resilient drill $(ARGS)

test: $(VENV)/.dev  ## all tests but the long ones (ARGS=tests/core)
	@$(PY) -m tests.side_by_side $(ARGS)

test-more: $(VENV)/.dev  ## the tests of what is built on it: frameworks, drills, the lab, benchmarks
	@$(PY) -m tests.side_by_side tests/apps tests/benchmarks tests/drill tests/lab $(ARGS)

lowest: $(LOWEST)/.dev  ## the tests once more, with the lowest versions that pyproject.toml allows (ARGS=tests/replay)
	@$(LOWEST)/bin/python -m tests.side_by_side $(ARGS)

differential: $(VENV)/.dev  ## psycopg_pool, httpx2 and getaddrinfo beside ours, on the same servers (ARGS='--share 4': a part)
	@$(PY) -m tests.side_by_side tests/differential $(ARGS)

soak: $(VENV)/.dev  ## the long tests
	@$(PY) -m resilient.lab.namespace -- $(PY) -m pytest -m soak $(ARGS)

bench-failover: $(VENV)/.bench  ## failovers beside the peers, PostgreSQL (ARGS='--quick'); hours, resumes
	@$(PY) -m benchmarks.failover $(ARGS)

bench-continuity: $(VENV)/.bench  ## writers that never pause, beside the peers: lost, twice, ghosts (ARGS='--failovers 4'); resumes
	@$(PY) -m benchmarks.continuity $(ARGS)

bench-orm: $(VENV)/.bench  ## ORM transactions that think while a primary dies (ARGS='--replication async')
	@$(PY) -m resilient.lab.namespace -- $(PY) -m benchmarks.orm $(ARGS)

bench-http: $(VENV)/.bench  ## failovers beside the peers, HTTP (ARGS='--quick')
	@$(PY) -m benchmarks.http_failover $(ARGS)
	@$(PY) -m benchmarks.http_ordinary $(ARGS)

bench-scale: $(VENV)/.bench  ## many clients: simulated, real and over an hour (ARGS=--quick)
	@$(PY) -m benchmarks.scale $(ARGS)

bench-idle: $(VENV)/.bench  ## what a pool asks of its servers at rest, by kind of endpoint (ARGS='--seconds 5')
	@$(PY) -m benchmarks.idle $(ARGS)

bench-overhead: $(VENV)/.bench  ## what it costs while nothing fails (ARGS='--quick --round-trip-ms 0.5')
	@$(PY) -m benchmarks.overhead $(ARGS)

docs: $(VENV)/.dev  ## the documentation's site, in build/site; links and the API reference are checked
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --clean
	@echo "build/site/index.html"

generate: $(VENV)/.dev  ## write the modules that are made from others, and the diagrams (ARGS=--check)
	@$(PY) tools/async_to_sync.py $(ARGS)
	@$(PY) -m resilient.state_diagrams $(ARGS)
	@$(PY) -m resilient.settings_table $(ARGS) docs/settings.md

lint: $(VENV)/.dev  ## ruff: rules and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(VENV)/.dev  ## mypy --strict and pyright, over the package and over a user's program
	@$(PY) -m mypy
	@$(PY) -m mypy --config-file= --strict --python-version 3.11 tests/typing/service.py
	@if $(BIN)/pyright --version >/dev/null 2>&1; then \
	  $(BIN)/pyright --pythonpath $(PY) && $(BIN)/pyright --pythonpath $(PY) -p tests/typing; else \
	  echo "pyright is left out: it fetches itself from npm's registry, which isn't reached"; fi

peer-tests: $(VENV)/.dev  ## psycopg's own tests on our pools and connections (PSYCOPG=<checkout>)
	@test -d "$(PSYCOPG)/tests/pool" || { \
	  echo "PSYCOPG='$(PSYCOPG)' is no checkout of psycopg: it has no tests/pool" >&2; exit 2; }
	@cache=$$(mktemp -d) && trap 'rm -rf "$$cache"' EXIT && PEER="$(CURDIR)/tests/peer" && \
	  PY="$(CURDIR)/$(PY)" && cd "$(PSYCOPG)" && \
	  export PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH="$$PEER" PYTHONDONTWRITEBYTECODE=1 && \
	  for off in 0 1; do PEER_OFF=$$off "$$PY" -m pytest -p plugin -p recorded -p no:asyncio \
	    -o cache_dir="$$cache" -m "not slow" $(PEER_FILES) $(ARGS) || exit; done && \
	  "$$PY" -m pytest -p plugin -p no:asyncio -o cache_dir="$$cache" tests/pool $(ARGS)

peer-apps: $(APPS)/.dev  ## frameworks' own tests, stock and ours (APPS_OF='[--failovers 30] django=<checkout>')
	@$(PY) -m resilient.lab.namespace -- $(APPS)/bin/python -m tests.peer.apps $(APPS_OF)

clean:  ## remove .venv and what tools leave behind
	rm -rf $(VENV) $(LOWEST) $(APPS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp per set of extras: made again when pyproject.toml is newer.
$(VENV)/.python:
	@sh .ci/venv "$(VENV)" "$(PYTHON)"
	@touch $@

$(VENV)/.drill: $(VENV)/.python pyproject.toml
	@echo "setting up $(VENV) for the drill"
	@$(PIP) -e '.[binary,cli,lab]'
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	@echo "setting up $(VENV) for the tests"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.drill

$(VENV)/.bench: $(VENV)/.python pyproject.toml
	@echo "setting up $(VENV) for the benchmarks"
	@$(PIP) -e '.[bench]'
	@touch $@

# A virtual environment of its own: pip would change the other one's versions to and fro.
$(LOWEST)/.dev: pyproject.toml tools/lowest.py
	@sh .ci/venv "$(LOWEST)" "$(PYTHON)"
	@echo "setting up $(LOWEST) with the lowest versions"
	@$(LOWEST)/bin/python tools/lowest.py > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c $(LOWEST)/constraints.txt -e '.[dev]'
	@touch $@

# And one with what other people's tests need.
$(APPS)/.dev: $(VENV)/.dev tests/peer/apps-requirements.txt
	@sh .ci/venv "$(APPS)" "$(PYTHON)"
	@echo "setting up $(APPS) with what the frameworks' tests need"
	@$(APPS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[dev]' -r tests/peer/apps-requirements.txt
	@touch $@
