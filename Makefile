# Two commands do everything on a fresh Debian 12 machine: `make demo` and `make test`. Either may come first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help demo down setup test test-slow test-faults lint types freeze bench

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## the whole loop on this machine, from a drive to a verified warm dataset
	$(BIN)/outlap demo

down: $(INSTALLED)  ## stop what `make demo` left running
	$(BIN)/outlap down

setup: $(INSTALLED)  ## system packages and the virtual environment only

lint: $(INSTALLED)  ## style, and the import arrows between folders: needs none of what benchmarks measure against
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.bench  ## mypy, strict
	$(BIN)/mypy

# Two at a time, a file to each: most of a test's time is waiting. tests/conftest.py says which file begins.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: lint types  ## every test but the long fault runs
	$(PYTEST) -m "not slow"

test-slow: .venv/.bench  ## the long fault runs
	$(PYTEST) -m slow

test-faults: .venv/.bench  ## every row of docs/faults.md, the long runs too
	$(PYTEST) -m fault

freeze: $(INSTALLED)  ## write constraints.txt anew from pyproject.toml
	$(BIN)/uv pip compile --quiet --python-version 3.11.2 --no-header --no-annotate --no-emit-index-url --all-extras \
	  pyproject.toml deploy/build-tools.txt --output-file constraints.new
	(echo "# Every version the project was tested with, on Python 3.11.2 and newer; build tools included."; cat constraints.new) > constraints.txt
	rm constraints.new

# Tests and types go over the benchmarks too, so they want their rivals.
bench: .venv/.bench  ## what benchmarks measure us against: JuiceFS, rclone, libvips, ffmpeg, Redis
	@echo 'now: .venv/bin/outlap bench --help'

.venv/.bench: $(INSTALLED) deploy/debian-packages-bench.txt
	DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$(cat deploy/debian-packages-bench.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[bench,test]'
	touch .venv/.bench

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
