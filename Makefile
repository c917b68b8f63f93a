# Every target works from a clean clone: what it needs is installed into .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/peers/.installed
SPECTRAL := tools/openapi

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

$(STAMP): requirements/dev.txt setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is missing, older than 3.11 or without venv. Install Python 3.11+ (Debian: python3 python3-venv) or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt || { \
	  echo "error: installation failed; see the message of pip above" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

# The FastAPI peer of the bench has packages of its own.
$(PEERS): requirements/peers.txt $(STAMP)
	@$(PYTHON) -m venv $(VENV)/peers
	@$(VENV)/peers/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/peers.txt
	@touch $(PEERS)

.PHONY: up
up: $(STAMP) ## Start the whole stack here: servers, daemons, webhook receiver; Ctrl-C stops it
	@exec $(BIN)/python -m deploy.local up

.PHONY: demo
demo: $(STAMP) ## Follow a ticket through the running stack: outbox, Kafka, inbox, deliveries
	@exec $(BIN)/python -m deploy.local demo

.PHONY: test
test: $(STAMP) ## Run the tests, on as many cores as there are, up to four (ARGS="tests/ticketd -k close")
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

.PHONY: test-faults
test-faults: $(STAMP) ## Every fault scenario on Apache Kafka at full length, about half an hour (ARGS="-k relayd"), then docs/delivery.md
	@$(BIN)/python -m pytest tests/faults -n 0 -s --full-length --keep-figures bench/results/faults $(ARGS)
	@$(BIN)/python -m bench.report

.PHONY: check
check: lint types openapi-lint test ## Everything that has to be green: lint, types, openapi-lint, test

.PHONY: fmt
fmt: $(STAMP) ## Format the code
	@$(BIN)/ruff check --quiet --select I --fix .
	@$(BIN)/ruff format .

.PHONY: lint
lint: $(STAMP) ## Check the format, ruff's rules, and who imports whom
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-logo --config setup.cfg

.PHONY: types
types: $(STAMP) ## Check the types (mypy, strict)
	@$(BIN)/mypy

.PHONY: openapi-lint
openapi-lint: ## Lint ticketd/openapi.yaml with Spectral; needs Node, and without it says so and goes on
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
	  cd $(SPECTRAL); \
	  cmp -s package-lock.json node_modules/.installed || { npm ci --loglevel=error && cp package-lock.json node_modules/.installed; }; \
	  node_modules/.bin/spectral lint --ruleset .spectral.yaml --fail-severity hint ../../ticketd/openapi.yaml; \
	elif [ -n "$${CI:-}" ]; then \
	  echo "error: openapi-lint needs Node 20 and npm, and with CI set a skip is a failure; install them or unset CI" >&2; exit 1; \
	else \
	  echo "skipped: openapi-lint, because Node and npm are not installed"; \
	fi

.PHONY: migrate
migrate: $(STAMP) ## Bring the database at DATABASE_URL to the newest schema
	@$(BIN)/python -m servicedesk.migrate

.PHONY: bench
bench: $(STAMP) $(if $(findstring fastapi,$(ARGS)),$(PEERS)) ## Load ticketd with wrk and k6, keep the figures (ARGS="--scenarios create,read --rounds 3")
	@exec $(BIN)/python -m bench $(ARGS)

.PHONY: bench-relay
bench-relay: $(STAMP) ## Drain an outbox into Apache Kafka, and at steady rates (ARGS="--peers debezium --rounds 3")
	@exec $(BIN)/python -m bench.queues relay $(ARGS)

.PHONY: bench-notify
bench-notify: $(STAMP) ## Take a topic of Apache Kafka in, and deliver it (ARGS="--scenarios ingest")
	@exec $(BIN)/python -m bench.queues notify $(ARGS)

.PHONY: bench-micro
bench-micro: $(STAMP) ## Measure the small hot pieces and compare with the run before (ARGS="-k envelope")
	@$(BIN)/python -m pytest bench/micro -o addopts= -p no:cacheprovider --import-mode=importlib --benchmark-storage=file://.benchmarks \
	  --benchmark-autosave $$(ls .benchmarks/*/*.json >/dev/null 2>&1 && echo --benchmark-compare) \
	  --benchmark-sort=name --benchmark-columns=median,iqr,ops,rounds $(ARGS)

.PHONY: bench-report
bench-report: $(STAMP) ## Draw docs/performance.md and its charts from bench/results/
	@$(BIN)/python -m bench.report

.PHONY: clean
clean: ## Remove what can be made again; the data in .local/ stays
	@rm -rf $(VENV) $(SPECTRAL)/node_modules build dist *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: lock
lock: $(STAMP) ## Refresh the pinned versions in requirements/
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-header setup.cfg -o requirements/runtime.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-header --extra dev setup.cfg -o requirements/dev.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --no-header bench/peers/fastapi/requirements.in -o requirements/peers.txt
