# The two commands are `make demo` and `make test`. Both install what they need.
# PYTHON names the interpreter that .venv is made with (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LAB ?= swarmkeep
# What bench-deploy compares with; and its flags, such as BENCH_FLAGS='--runs 9 --keep-lab'.
BENCH_VENV := .bench-venv
BENCH_FLAGS ?=
EARLIER ?= d581ae5
# Of the unit and SSH tests: some of them wait.
PROCESSES := $(shell expr $$(nproc) + 1)
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo lint types test test-unit test-e2e \
  bench-availability bench-backup bench-deploy bench-hosts bench-verify bench-pitr bench-report bench-scripts bench-startup bench-upgrade lock clean

help: ## Show this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

venv: $(STAMP) ## Create .venv and install the locked dependencies

$(STAMP): requirements-dev.lock tools/venv.sh
	@tools/venv.sh $(PYTHON) $(VENV) requirements-dev.lock
	@touch $@

demo: $(STAMP) ## Bring up the lab, deploy, back up, verify: the whole product in one go
	@tools/demo.sh $(LAB)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x $$(git grep -lE '^#!(/usr/bin/env |/bin/)(ba)?sh')

types: $(STAMP)
	$(BIN)/mypy
	MYPYPATH=compose/backup $(BIN)/mypy compose/backup/*.py

test-unit: $(STAMP) lint types ## The quick tests: lint, types, unit, SSH (under a minute on two cores)
	@tools/need.sh curl perl
	$(BIN)/pytest -q --numprocesses $(PROCESSES) -m "not thorough" tests/unit tests/ssh

test: $(STAMP) lint types ## Everything: the quick tests, the thorough ones, those of the scripts, those in the lab
	@tools/need.sh curl perl openssh-server openssh-client chromium
	$(BIN)/pytest -q --numprocesses $(PROCESSES) tests/unit tests/ssh
	@tools/need.sh bats parallel age openssh-client
	bats --jobs "$$((2 * $$(tools/workers.sh)))" --print-output-on-failure tests/shell
	@# Fixtures may take long: the lab's images are built there where they are missing.
	@# A lab for each worker, the longest files first: while one waits, another works.
	$(BIN)/pytest -o timeout_func_only=true --timeout 900 --numprocesses "$$(tools/workers.sh)" \
	  --dist loadfile --no-loadscope-reorder --durations 20 tests/e2e

test-e2e: $(STAMP) ## One file of them, in a lab that stays up: make test-e2e FILE=tests/e2e/test_7_rotate.py
	@[[ -f "$(FILE)" ]] || { echo "error: FILE names no file; next: make test-e2e FILE=tests/e2e/..." >&2; exit 2; }
	SWARMKEEP_TEST_KEEP_LAB=1 $(BIN)/pytest -o timeout_func_only=true --timeout 900 "$(FILE)"

bench-backup: $(STAMP) ## Time backup and restore against the literal pipelines, side by side in the lab
	$(BIN)/python -m bench.backup $(LAB)
	$(BIN)/python -m bench.backup.restoring $(LAB)
	$(BIN)/python -m bench.backup.encrypting $(LAB)

bench-deploy: $(STAMP) $(BENCH_VENV)/.installed ## Time deploys beside Ansible, pyinfra and plain ssh, in a lab of its own
	$(BIN)/python -m bench.deploy $(BENCH_FLAGS)

$(BENCH_VENV)/.installed: requirements-bench.lock tools/venv.sh
	@tools/venv.sh $(PYTHON) $(BENCH_VENV) requirements-bench.lock
	@touch $@

bench-hosts: $(STAMP) ## Time backup.install on 100 simulated hosts against 10
	$(BIN)/python -m bench.many_hosts

bench-verify: $(STAMP) ## Time backup.verify against 100,000 objects in the lab
	$(BIN)/python -m bench.verify $(LAB)

bench-pitr: $(STAMP) ## Time point-in-time recovery: its cost, base backups, replay, what a loss costs
	$(BIN)/python -m bench.pitr $(LAB)
	$(BIN)/python -m bench.pitr.replay $(LAB)
	$(BIN)/python -m bench.pitr.loss $(LAB)

bench-scripts: $(STAMP) ## Time the node's scripts beside those of another commit: EARLIER=COMMIT
	$(BIN)/python -m bench.scripts $(LAB) $(EARLIER)

bench-report: $(STAMP) ## Time the report page of 2,000 sets
	$(BIN)/python -m bench.report

bench-availability: $(STAMP) ## What a client notices of each kind of change, with and without the proxy
	$(BIN)/python -m bench.availability $(LAB)

bench-startup: $(STAMP) ## Time inv --list against an empty Invoke collection
	$(BIN)/python -m bench.startup

bench-upgrade: $(STAMP) ## Time PostgreSQL's next major version against pg_dump | pg_restore
	$(BIN)/python -m bench.upgrade $(LAB)

lock: ## Renew the lock files from pyproject.toml
	@tools/lock.sh $(PYTHON)

clean: ## Remove .venv and caches (not the lab: inv lab.down)
	find fabfile lab -name __pycache__ -prune -exec rm -rf {} +
	rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
