# Everything a newcomer needs. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.SILENT:

# The Python to build with, 3.11 or newer: make run PYTHON=python3.12
PYTHON ?= python3
# More arguments for pytest: make test ARGS='-k send -x'
ARGS ?=
# Seeds to simulate, a number of them or FIRST:BEYOND.
SEEDS ?= 200

BIN := .venv/bin
STAMP := .venv/installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: help install run install-service uninstall-service test coverage simulate schemathesis chaos outages archive-kills day failover operations autoscaling soak systemd fuzz console lint check bench calibrate verify-plan format clean

help: ## List these targets
	sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

install: $(STAMP) ## Prepare .venv with everything, and .venv/bin/smsengine

# Made anew only when one of these has changed.
$(STAMP): pyproject.toml setup.py requirements-embedded.txt $(wildcard engine/*.pyx engine/*/*.pyx engine/*/*/*.pyx)
	say() { echo "make: $$*" >&2; }
	command -v $(PYTHON) > /dev/null || {
	    say "There is no $(PYTHON); install Python 3.11 or newer (Debian: apt install python3), or name one with PYTHON=."
	    exit 1
	}
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	    say "$(PYTHON) is $$($(PYTHON) -c 'import platform; print(platform.python_version())'); 3.11 or newer is needed: name one with PYTHON=."
	    exit 1
	}
	$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || {
	    say "$(PYTHON) lacks its venv module (Debian: apt install python3-venv)."
	    exit 1
	}
	command -v $${CC:-gcc} > /dev/null || {
	    say "There is no C compiler (Debian: apt install gcc)."
	    exit 1
	}
	$(PYTHON) -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || {
	    say "The headers of $(PYTHON) are missing (Debian: apt install python3-dev)."
	    exit 1
	}
	if ! $(BIN)/python -c 'import pip' 2> /dev/null; then
	    echo "Creating the virtual environment .venv ..."
	    rm -rf .venv
	    $(PYTHON) -m venv .venv
	fi
	echo "Installing the libraries and compiling the extensions (the first time a minute or two, about 700 MB) ..."
	$(PIP) install --editable '.[embedded,dev]'
	echo "Installing the embedded ClickHouse engine ..."
	$(PIP) install --no-deps --requirement requirements-embedded.txt
	touch $@
	echo "Installed: $(BIN)/smsengine"

run: $(STAMP) ## Run the engine with a demo organisation on 127.0.0.1:8080, data in ./data
	exec $(BIN)/smsengine up --demo

install-service: ## Make this clone the service smsengine of systemd, as root (docs/operations.md)
	exec deploy/systemd/service install

uninstall-service: ## Stop and remove the service; its data and settings stay
	exec deploy/systemd/service uninstall

# With ARGS it is one pytest, so that they mean what they say.
test: $(STAMP) ## Test everything, with real servers
	exec $(BIN)/python -m $(if $(strip $(ARGS)),pytest $(ARGS),tests)

coverage: $(STAMP) ## Test everything, and count the lines that were run
	COVERAGE=1 exec $(BIN)/python -m tests

# Minutes of chaos, and the seed of its choices.
MINUTES ?= 3
SEED ?= 1
chaos: $(STAMP) ## Kill and freeze everything at random under load, for MINUTES; then beside cancels, for MINUTES but two at most
	MINUTES=$(MINUTES) SEED=$(SEED) exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/chaos/test_chaos.py tests/chaos/test_cancels.py

outages: $(STAMP) ## A store away for a minute, providers that go wrong, workers that die beside backlogs: about eight minutes
	exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/chaos/test_long_outages.py tests/chaos/test_carrier_faults.py tests/chaos/test_fair_backlogs.py

# How many processes of each kind are killed.
KILLS ?= 50
archive-kills: $(STAMP) ## Kill and freeze archivers, matchers and halves of ClickHouse, KILLS times each: each row is stored once
	KILLS=$(KILLS) SEED=$(SEED) exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/chaos/test_archivers.py tests/chaos/test_matchers.py tests/chaos/test_divisions.py

# Messages of the day, and seconds for an hour of it.
MESSAGES ?= 3000
HOUR_S ?= 2
day: $(STAMP) ## The traffic of a day in minutes; reports, lists, exports, balance and books agree to the unit
	MESSAGES=$(MESSAGES) HOUR_S=$(HOUR_S) SEED=$(SEED) exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/chaos/test_day.py

# Cases for each target instead of MINUTES for all; one target of them, or several with commas between.
CASES ?=
TARGET ?=
fuzz: .venv/fuzz ## Give any octets to whatever reads from outside, for MINUTES or CASES
	exec $(BIN)/python -m tests.fuzz $(if $(CASES),--cases $(CASES),--minutes $(MINUTES)) --seed $(SEED) $(if $(TARGET),--target $(TARGET)) $(ARGS)

# It fuzzes without coverage, too, where there is no atheris for this Python.
.venv/fuzz: $(STAMP)
	$(PIP) install --editable '.[fuzz]' || echo "make: atheris cannot be installed; inputs are made by chance alone." >&2
	touch $@

# PICTURES=1 writes those of docs/console.md anew.
console: .venv/console ## Use the web console in a real browser, each page and control; needs chromium
	exec $(BIN)/python -m pytest --override-ini addopts=-ra tests/console/browser $(ARGS)

.venv/console: $(STAMP)
	$(PIP) install --editable '.[console]'
	touch $@

failover: $(STAMP) ## Kill, freeze and cut off stores and nodes that have a second, with real servers
	exec $(BIN)/python -m pytest --override-ini addopts=-ra tests/failover $(ARGS)

operations: $(STAMP) ## Signals, full disks, no room for processes, clocks that jump, names that hang; as root
	exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/operations $(ARGS)

autoscaling: $(STAMP) ## Autoscaling by processes on the whole engine, up and down again, in two minutes
	exec $(BIN)/python -m pytest -s --override-ini addopts=-ra tests/capacity/long $(ARGS)

# Messages a second.
RATE ?= 200
soak: $(STAMP) ## Mixed traffic, failures and reloads for MINUTES, and whether anything grows
	exec $(BIN)/python -m tests.soak --minutes $(MINUTES) --rate $(RATE) --seed $(SEED) $(ARGS)

systemd: $(STAMP) ## Run the engine as a service of a systemd of its own, with failures that take long to watch; as root
	exec $(BIN)/python -m pytest --override-ini addopts=-ra tests/systemd $(ARGS)

simulate: $(STAMP) ## Run the credit protocol under faults on virtual time: make simulate SEEDS=1000, or SEEDS=500:900
	exec $(BIN)/python -m tests.simulation --seeds $(SEEDS)

# Requests for each call and phase; ARGS='--only operators' or organisations for the calls of one side.
EXAMPLES ?= 200
schemathesis: $(STAMP) ## Make requests of the OpenAPI document by the thousand, and hold every answer to it
	exec $(BIN)/python -m tests.openapi.campaign --examples $(EXAMPLES) --seed $(SEED) $(ARGS)

lint: $(STAMP) ## Check format, style and types, and that nothing is written that nothing calls
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/vulture

check: lint test ## Lint and test, as the CI does

# SAVE=NAME keeps the figures as a baseline, COMPARE=1 says what is slower than the last one, COMPARE=NAME than that one.
SAVE ?=
COMPARE ?=
bench: $(STAMP) ## Measure the parts, with COMPARE=1 beside the stored baseline; what else there is: .venv/bin/python -m benchmarks
	$(BIN)/python -m pytest -o python_files='bench_*.py' -s benchmarks/micro \
	    --benchmark-json=benchmarks/results/bench.json \
	    --benchmark-storage=file://benchmarks/results/baselines $(if $(SAVE),--benchmark-save=$(SAVE)) $(ARGS)
	$(if $(COMPARE),exec $(BIN)/python -m benchmarks.compare $(filter-out 1,$(COMPARE)))

calibrate: $(STAMP) ## Measure what the engine costs on this machine, for smsengine plan, in under two minutes
	exec $(BIN)/python -m benchmarks.calibrate $(ARGS)

verify-plan: $(STAMP) ## Hold the predictions of smsengine plan to what happens: a report, after 20 minutes
	exec $(BIN)/python -m benchmarks.verify_plan

format: $(STAMP) ## Bring the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv and what was built; the data in ./data stays
	rm -rf .venv .fuzz build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks *.egg-info
	rm -f engine/*.so engine/*/*.so engine/*/*/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
