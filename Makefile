# Every target sets up .venv by itself, on a fresh machine too: all that it takes is Python 3.10 or newer with venv, and a
# C++17 compiler.

PYTHON ?= python3
VENV ?= .venv
# Exact versions for the development environment; requirements/lowest.txt has the oldest ones that pyproject.toml admits.
CONSTRAINTS ?= requirements/known-good.txt
# Where `make gpu` and `make profile` build and write.
OUT ?= gpu-results
# Which tests the sanitizers run: those that reach native code.
SANITIZE_TESTS ?= tests/cpu tests/cuda tests/engine/operators/test_operators.py tests/engine/test_paths.py tests/engine/test_mlp.py
# Whether the CUDA module is built: AUTO where there is a CUDA compiler, which takes minutes; ON, OFF.
FASTFLOW_CUDA ?= AUTO
# How long `make torture` goes on.
MINUTES ?= 5
# What the package is installed with.
EXTRAS = dev,viz,logging,app

NATIVE := $(shell find csrc -type f) tests/cuda/emulator.cpp
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := $(VENV)/demo
GENERATORS := $(VENV)/generators
SITE := $(VENV)/site
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)
# No build isolation and a build folder that stays: after a change in csrc/ only what changed is compiled again.
INSTALL_SELF = $(INSTALL) --no-build-isolation --config-settings=build-dir=build/$(notdir $(VENV))$(1) \
  --config-settings=cmake.define.FASTFLOW_CUDA=$(FASTFLOW_CUDA) --config-settings=cmake.define.FASTFLOW_CUDA_EMULATION=ON \
  --editable '.[$(EXTRAS)]'

.DEFAULT_GOAL := help
.PHONY: help build demo test test-fast test-lowest coverage torture docs bench gpu profile lint format sanitize wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.* ## /\1\t/' | expand -t 14

# Python code is used where it lies; what needs a new installation is metadata, dependencies and the native module.
$(READY) $(DEMO): pyproject.toml CMakeLists.txt $(CONSTRAINTS) $(NATIVE) $(shell find cmake -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) scikit-build-core nanobind cmake ninja
	$(call INSTALL_SELF)
	touch $@

build: $(READY) ## set up .venv with the package, its native module and the tools

# Without the tools, unless they are there already.
$(DEMO): EXTRAS = app
demo: $(if $(wildcard $(READY)),$(READY),$(DEMO)) ## run the whole story on bundled real data and write demo/report.html
	$(BIN)/fastflow demo --out demo

# A file's tests stay in one of two processes, of one thread each.
test test-fast coverage: export OMP_NUM_THREADS = 1
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --benchmark-disable

test: $(GENERATORS) ## run the tests that need no GPU
	$(PYTEST) --durations=20 -m "not gpu"

test-fast: $(READY) ## run the quick ones of them
	$(PYTEST) -m "not gpu and not slow"

# What child processes run isn't counted, nor what Triton compiles.
coverage: $(GENERATORS) ## run the tests and tell which lines of Python none of them reaches
	$(PYTEST) -m "not gpu" --cov --cov-report=term --cov-report=html

# Counts and faults go to torture-results/.
torture: $(READY) ## try to break everything, by the thousand, for some minutes (MINUTES=60 for an hour)
	PYTHONPATH=tests $(BIN)/python -m torture --minutes $(MINUTES) --out torture-results

# The packages whose classes generators are tested on. A test whose package is absent says so and is skipped.
$(GENERATORS): $(READY) requirements/generators.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python \
	  --requirement requirements/generators.txt
	touch $@

# Without the extra app: what gradio needs of others is newer than what we need of them.
test-lowest: ## run them on the oldest supported versions of the dependencies, in .venv-lowest
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=requirements/lowest.txt EXTRAS=dev,viz,logging

docs: $(SITE) ## build the documentation into site/; warnings, such as links that lead nowhere, are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(SITE): EXTRAS = dev,viz,logging,app,docs
$(SITE): $(READY)
	$(call INSTALL_SELF)
	touch $@

bench: EXTRAS = dev,viz,logging,app,bench
bench: $(READY) ## time the engine beside its peers, in a quarter of an hour, into benchmarks/results/
	$(call INSTALL_SELF)
	$(BIN)/python -m benchmarks.cpu

# For the interpreter that is named, as it is: nothing is downloaded, and nothing installed into it.
gpu: ## on a machine with a GPU: build, test and time in under 8 minutes (PYTHON=python3 OUT=dir)
	$(PYTHON) -m benchmarks.gpu --out $(OUT)

profile: ## on a machine with a GPU: what Nsight Systems and Nsight Compute see of the kernels (PYTHON=python3 OUT=dir)
	$(PYTHON) -m benchmarks.gpu.profile --out $(OUT)

lint: $(READY) ## check style, formatting, types and spelling
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/clang-format --dry-run --Werror $(filter %.cpp %.hpp %.cu %.cuh,$(NATIVE))
	$(BIN)/typos

format: $(READY) ## format the code, and mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(filter %.cpp %.hpp %.cu %.cuh,$(NATIVE))

# The module under test takes the place of the usual one; without the stamp, the next target puts the usual one back.
# Both libraries are preloaded because Python is built without either: AddressSanitizer must come first, and it looks for
# the C++ runtime's __cxa_throw when it starts. Leaks are left out: Python never frees all that it allocates. A report ends
# the process, so pytest must not hold back what is written to standard error.
sanitize: FASTFLOW_CUDA = OFF
sanitize: $(READY) ## run the native tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -f $(READY) $(DEMO)
	$(call INSTALL_SELF,-sanitize) --config-settings=cmake.define.FASTFLOW_SANITIZE=ON --config-settings=install.strip=false
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(BIN)/pytest --capture=sys -m "not gpu" $(SANITIZE_TESTS)

wheel: $(READY) ## build the source distribution, and from it the wheel, in dist/
	$(BIN)/python -m build --outdir dist

clean: ## remove everything that the targets above made
	rm -rf $(VENV) .venv-lowest build dist demo site gpu-results torture-results htmlcov .coverage .pytest_cache .ruff_cache
