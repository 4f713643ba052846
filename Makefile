# Everything a user or a CI types. `make` alone lists it.
SHELL := /bin/bash
VENV ?= .venv
export VENV
export PATH := $(abspath $(VENV))/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart doctor test test-stages test-others test-fast lint format benchmark lock test-packages

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

setup: ## create .venv and install exactly the lock file of this machine
	@requirements/setup.sh

quickstart: setup ## recipe to report on a real small model, on any machine: about 10 minutes on 2 cores
	@python -m pipeline run recipes/quickstart.yaml

doctor: setup ## what this machine can do, what is wrong, and how to mend it
	@python -m pipeline doctor

test: lint test-packages ## linters, types and all tests
	@$(MAKE) -j2 test-stages test-others

test-stages: # beside test-others, since both often wait for one process
	python -m pytest tests/stages

test-others:
	python -m pytest --ignore=tests/stages

test-fast: lint ## the same without the slow tests
	python -m pytest -m "not slow"

lint: setup ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

format: setup ## let ruff mend layout, imports and what else it can
	ruff check --fix-only --quiet .
	ruff format .

benchmark: setup ## speed of engine, starts and adapted layers, beside their peers: 15 minutes, 15 GB of disk
	@python -m benchmarks.engine
	@python -m benchmarks.init
	@python -m benchmarks.layer

lock: setup ## compile requirements/*.lock anew from the .in files; newer versions: make lock UPGRADE=--upgrade
	requirements/lock.sh $(UPGRADE)

test-packages: # Debian packages that the tests drive
	@requirements/debian.sh chromium sbatch=slurm-wlm munged=munge shellcheck
