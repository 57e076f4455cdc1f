# make demo | test | lint | docs | bench: each makes .venv first when it is missing or out of date.
# make check-cuda makes .venv-cuda, with a CUDA build of torch, for tests that need nvcc and no GPU.
PYTHON ?= python3
# pinned before anything else, so that no resolver picks another torch
TORCH ?= torch==2.13.0
DEMO ?=
# the slow ones run every night
TESTS ?= -m "not slow"
# processes that share the tests and the cores; JOBS=0 runs all tests in one, which a debugger needs
JOBS ?= 2
BENCH ?=
# test,bench has the projects that benchmarks compare with; an installed .venv keeps those it was made with
EXTRAS ?= test,lint

# the oldest torch that edmfast supports, whose usual wheel is a CUDA build
CUDA_TORCH ?= torch==2.11.0
# in a process that sees a CUDA device which does nothing; see bench/gpu/no_device.py
CUDA_TESTS ?= tests/cuda_build tests/smc/test_launches.py tests/bench/test_launches.py tests/test_cuda_build.py
# the launch code of the Triton kernels, with the Triton of that torch
CUDA_LAUNCHES ?= tests/ops/test_fakes.py tests/ops/triton/test_launches.py

BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
STAMP := .venv/.installed
CUDA_BIN := .venv-cuda/bin
CUDA_STAMP := .venv-cuda/.installed
SOURCES := $(wildcard pyproject.toml setup.py csrc/*.cpp csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h)

.PHONY: venv demo test check-cuda lint docs bench clean

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
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(TESTS)

$(CUDA_BIN)/python:
	$(PYTHON) -m venv .venv-cuda

$(CUDA_STAMP): $(SOURCES) | $(CUDA_BIN)/python
	$(CUDA_BIN)/pip --disable-pip-version-check install --quiet "$(CUDA_TORCH)" "setuptools>=77" wheel ninja
	EDMFAST_FORCE_CUDA=1 $(CUDA_BIN)/pip --disable-pip-version-check install --quiet --no-build-isolation \
		--editable ".[test]"
	touch $@

check-cuda: $(CUDA_STAMP)
	$(CUDA_BIN)/python -m bench.gpu.no_device -m pytest $(CUDA_TESTS)
	$(CUDA_BIN)/python -m pytest $(CUDA_LAUNCHES)

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
	rm -rf .venv .venv-cuda build site *.egg-info edmfast/*.so edmfast/_build_info.txt
