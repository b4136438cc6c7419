# Two commands do everything on a fresh Debian 12 machine: `make demo` and `make test`. Either may come first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help demo down setup test test-slow lint types

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## the whole loop on this machine, from a drive to a verified warm dataset
	$(BIN)/outlap demo

down: $(INSTALLED)  ## stop what `make demo` left running
	$(BIN)/outlap down

setup: $(INSTALLED)  ## system packages and the virtual environment only

lint: $(INSTALLED)  ## style, and the import arrows between folders
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(INSTALLED)  ## mypy, strict
	$(BIN)/mypy

test: lint types  ## every test but the long fault runs
	$(BIN)/pytest -m "not slow"

test-slow: $(INSTALLED)  ## the long fault runs
	$(BIN)/pytest -m slow

# The stamp is older than a changed dependency list, so that a second run starts at once.
$(INSTALLED): pyproject.toml constraints.txt deploy/debian-packages.txt
	packages=$$(cat deploy/debian-packages.txt); \
	if ! dpkg -s $$packages >/dev/null 2>&1; then \
	  $(SUDO) apt-get update -qq; \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$packages; \
	fi
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --build-constraint constraints.txt --editable '.[test]'
	touch $(INSTALLED)
