# Headrace: every command a newcomer, a developer or CI needs. `make` alone prints this list.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo up test chaos clocks check format bench lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  \033[36m%-8s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## install everything into .venv from the lock file

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Headrace needs Python 3.11 or newer; set PYTHON=python3.x")'
	@echo "Installing into $(VENV) (once, about half a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## the main job, end to end, on embedded servers and real data; non-zero if anything does not add up
	@$(BIN)/python -m sandbox demo

up: setup ## everything running with live stock changes; prints the dashboard's address, Ctrl-C stops it all
	@$(BIN)/python -m sandbox up

test: setup ## the whole suite against real embedded servers
	@$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

chaos: setup ## kill, freeze, cut, wipe and restart everything under load; MINUTES=5, SEED=n repeats a run
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

clocks: setup ## kill and freeze schedulers while schedules fire each second; MINUTES=10, SCHEDULERS=3, SEED=n
	@$(BIN)/python -m tests.chaos.clocks --minutes $(or $(MINUTES),10) --schedulers $(or $(SCHEDULERS),3) \
		$(if $(SEED),--seed $(SEED))

check: setup ## format, lint, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## rewrite files to the house format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup ## measure against the peers, as ratios in one run
	@$(BIN)/python -m tests.benchmarks --keep

lock: setup ## resolve the dependencies anew into the two lock files
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	  --no-header --no-emit-index-url --no-emit-find-links --no-annotate --output-file requirements.lock
	@$(BIN)/uv pip compile pyproject.toml --group sandbox --group dev --group build --constraints requirements.lock \
	  --universal --python-version 3.11 --generate-hashes --quiet \
	  --no-header --no-emit-index-url --no-emit-find-links --no-annotate --output-file requirements-dev.lock

clean: ## remove the virtual environment and the sandbox's data
	@rm -rf $(VENV) .sandbox .mypy_cache .ruff_cache .pytest_cache
