# The commands of this repository; `make` lists them. Builds are CMake presets (CMakePresets.json); what a machine lacks
# is installed by tools/setup, which every build calls first and which says nothing when there is nothing to do.
SHELL := bash
.DELETE_ON_ERROR:
.NOTPARALLEL:

JOBS ?= $(shell nproc)
PREFIX ?= $(CURDIR)/out/install
# More for CMake at the first configuration of each build but CUDA's, such as -DCMAKE_COMPILE_WARNING_AS_ERROR=ON, and of
# CUDA's.
CONFIGURE ?=
CONFIGURE_CUDA ?=
# tools/setup puts a cmake there when the system's is too old; looked up when used, that is after setup.
CMAKE = $(or $(wildcard .venv/bin/cmake),cmake)
CTEST = $(or $(wildcard .venv/bin/ctest),ctest)
# ThreadSanitizer cannot place its shadow memory where a kernel spreads addresses widely.
FIXED_ADDRESSES = $(if $(filter thread,$1),$(shell setarch -R true 2>/dev/null && echo setarch -R))
SANITIZERS := address thread

.PHONY: help setup configure build program test cuda demo bench dropout-statistics wheel install format format-check layers sanitize clean \
        $(SANITIZERS:%=sanitize-%)

help: ## this list
	@echo "make TARGET [JOBS=n]"
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what this machine lacks: Debian/Ubuntu packages and a .venv with LibTorch
	@tools/setup

# Configuring anew takes seconds in which nothing is learnt; ninja does it by itself when a CMake file changes.
configure: setup
	@[ -f build/build.ninja ] || $(CMAKE) --preset default $(CONFIGURE)

build: configure ## build the library, the program and the tests into build/
	@$(CMAKE) --build build -j $(JOBS)

program: configure ## build only the library and the program `longstride`
	@$(CMAKE) --build build -j $(JOBS) --target longstride longstride_program

test: setup layers format-check build ## every test that needs no GPU, the layer checker and the format check
	@$(CTEST) --test-dir build -j $(JOBS) --output-on-failure --no-tests=error

cuda: ## compile the CUDA engine with its gate on registers, and run its tests that need no GPU; needs nvcc
	@tools/setup --cuda
	@[ -f build-cuda/build.ninja ] || $(CMAKE) --preset cuda $(CONFIGURE_CUDA)
	@$(CMAKE) --build build-cuda -j $(JOBS) --target longstride_engine_cuda cuda_host_test
	@$(CTEST) --test-dir build-cuda -R '^cuda_host\.' --output-on-failure --no-tests=error

demo: program ## train a LongNet on Python's own sources for two minutes; RETRAIN=1 to train anew
	@tools/demo $(if $(RETRAIN),--retrain)

bench: program ## longstride beside dense attention and the group-by-group algorithm; JSON and curves in out/bench
	@mkdir -p out/bench
	build/bin/longstride bench --suite cpu --save out/bench/suite.json
	build/bin/longstride bench --lens 1k,2k,4k,8k,16k,32k --curve out/bench/curve.svg --save out/bench/curve.json

dropout-statistics: configure ## test how random dropout's draws are; needs dieharder (Debian) and time
	@$(CMAKE) --build build -j $(JOBS) --target dropout_words
	@tools/dropout_statistics build/bench/dropout_words

wheel: setup ## build the Python wheel into out/wheel and run its tests in an environment of its own; needs a package index
	@tools/wheel

install: program ## install headers, library, program and CMake package to PREFIX
	@$(CMAKE) --install build --prefix $(PREFIX)

# ThreadSanitizer runs what has threads: the memory pool, the cache of plans and the CPU engine.
TARGETS_thread = --target core_test plan_test engine_test
TESTS_thread = -R '^(core|plan[.]PlanCache|engine)[.]' -E '^engine[.](Reference[.]|Scores[.]OfAnySizeOnTheReferenceEngine)'

sanitize: $(SANITIZERS:%=sanitize-%) ## the torch-free tests under the sanitizers below, in two builds

sanitize-address: ## ... under AddressSanitizer and UndefinedBehaviorSanitizer
sanitize-thread: ## ... those with threads under ThreadSanitizer
$(SANITIZERS:%=sanitize-%): sanitize-%: setup
	@[ -f build-$*/build.ninja ] || $(CMAKE) --preset $* $(CONFIGURE)
	@$(CMAKE) --build build-$* -j $(JOBS) $(TARGETS_$*)
	@$(call FIXED_ADDRESSES,$*) $(CTEST) --test-dir build-$* -j $(JOBS) $(TESTS_$*) --output-on-failure --no-tests=error

format: setup ## format every C++ file
	@tools/format

format-check: setup ## fail if a C++ file is not formatted
	@tools/format --check

layers: ## fail if an include or a link crosses the layers of the house
	@python3 tools/check_layers.py

clean: ## remove all builds and outputs; .venv stays
	@rm -rf build build-* out
