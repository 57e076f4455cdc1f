# make demo | test | lint | docs | bench: each makes .venv first when it is missing or out of date.
PYTHON ?= python3
# pinned before anything else, so that no resolver picks another torch
TORCH ?= torch==2.13.0
DEMO ?=
# the slow ones run every night
TESTS ?= -m "not slow"
BENCH ?=
# test,bench has the projects that benchmarks compare with; an installed .venv keeps those it was made with
EXTRAS ?= test,lint

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := .venv/.installed
SOURCES := $(wildcard pyproject.toml setup.py csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h)

.PHONY: venv demo test lint docs bench clean

venv: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet "$(TORCH)" "setuptools>=77" wheel ninja
	$(PIP) install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

demo: $(STAMP)
	$(BIN)/edmfast demo $(DEMO)

test: $(STAMP)
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

# edmfast is installed already, so that pip adds only what the extra needs
docs: $(STAMP)
	$(PIP) install --quiet "edmfast[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	$(BIN)/python -m bench.run $(BENCH)

clean:
	rm -rf .venv build site *.egg-info edmfast/*.so edmfast/_build_info.txt
