# Every word a person or a CI job needs; `make` alone lists them. Each does its own set-up: on a fresh Debian 12 or
# Debian 13 with git, make, g++, python3 and python3-venv nothing else has to be typed first.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
PYTHON ?= python3
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 10
SOAK_HOURS ?= 1
RELIABILITY_OPTIONS ?=
PYTEST_OPTIONS ?=
QEMU_ARCH ?= arm64
QEMU_OPTIONS ?=
BIN := .venv/bin
STAMPS := build/stamps
NATIVE := build/native
NATIVE_FILES = $(shell git ls-files -co --exclude-standard 'native/*.cc' 'native/*.h')
# What tools/testbed/devices runs of what was built.
DEVICE_PROGRAMS := drive_test transport_test client_test cuda_stand_in cairn-connect-storm cairn-fence-races
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
  --no-emit-find-links --custom-compile-command 'make lock'

export PYTHON
export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup build demo test test-native test-python test-testbed test-fuzz check check-sanitizers fuzz build-fuzzers
.PHONY: test-devices test-qemu reliability soak coverage bench bench-rdma lock wheels clean

help:  ## this list
	@echo 'Cairn. Each word sets up what it needs: minutes the first time, seconds after that.'
	@echo
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-18s %s\n", $$1, $$2 }'
	@echo
	@echo 'Begin with make demo. Change something, then make test. CONTRIBUTING.md says the rest.'

setup: build  ## system packages, .venv, and both packages installed from this checkout

demo: build  ## start a store, put and get blocks, show what happened
	@$(BIN)/python tools/demo.py

test: test-native test-python test-testbed test-fuzz  ## all tests

test-native: build  ## the tests of the C++ core
	cmake --build $(NATIVE)
	ctest --test-dir $(NATIVE) --parallel $(JOBS) --output-on-failure --no-tests=error

test-python: build  ## the tests in Python, the whole service included
	@cmake --build $(NATIVE) --target cairn-torture cuda_stand_in
	$(BIN)/python -m pytest tests -m 'not wheels' $(PYTEST_OPTIONS)

test-devices: build  ## the tests that need RDMA or NVMe, in the testbed (docs/testbed.md); root
	@cmake --build $(NATIVE) --target $(DEVICE_PROGRAMS)
	tools/testbed/devices

# The same, where it can be had without building a kernel first; with CI set it is built, and has to work.
test-testbed: build
	@cmake --build $(NATIVE) --target $(DEVICE_PROGRAMS)
	tools/testbed/devices --if-possible

test-qemu: $(STAMPS)/qemu-$(QEMU_ARCH) .venv/.packages  ## an arm64 machine (QEMU_ARCH) whose power is cut in mid-write (docs/qemu.md)
	$(BIN)/python tools/qemu/run --arch $(QEMU_ARCH) $(QEMU_OPTIONS)

# A short run of every fuzzer. It needs clang: root installs it, as it does every other missing package; anybody else
# without it is told, and has run everything but this.
test-fuzz:
	@if compgen -c clang++- >/dev/null || [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory fuzz; \
	  else echo 'fuzzers: NOT RUN, there is no clang here; make fuzz says how to get it'; fi

check: build  ## formatting, lint, types, and the rules of the tree about itself
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@echo '$(BIN)/clang-format --dry-run --Werror native/…'
	@$(BIN)/clang-format --dry-run --Werror $(NATIVE_FILES)
	$(BIN)/python -m pytest tests/project

check-sanitizers: $(STAMPS)/clang build  ## the native tests under ASAN, UBSAN and TSAN
	@compiler=$$(tools/setup.sh clang); \
	for sanitizer in address,undefined thread; do \
	  folder=build/sanitize-$${sanitizer%%,*}; \
	  cmake -S native -B $$folder -G Ninja -DCMAKE_CXX_COMPILER=$$compiler -DCMAKE_C_COMPILER=$${compiler/++/} \
	    -DCAIRN_TESTS=ON -DCAIRN_SANITIZE=$$sanitizer >$$folder.log 2>&1 || { cat $$folder.log; exit 1; }; \
	  cmake --build $$folder; \
	  ctest --test-dir $$folder --parallel $(JOBS) --output-on-failure --no-tests=error; \
	done
	@[ "$$(id -u)" != 0 ] || tools/setup.sh system testbed emulated
	tools/testbed/sanitizers build/sanitize-address build/sanitize-thread

build-fuzzers: $(STAMPS)/clang .venv/.packages  ## compile the fuzzers, with clang
	@compiler=$$(tools/setup.sh clang); \
	cmake -S native -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$$compiler -DCMAKE_C_COMPILER=$${compiler/++/} \
	  -DCAIRN_FUZZ=ON -DCAIRN_SANITIZE=address,undefined >build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
	cmake --build build/fuzz

fuzz: build-fuzzers  ## run every fuzzer for FUZZ_SECONDS (10)
	@mkdir -p build/fuzz-findings
	@for source in native/fuzz/*_fuzz.cc; do \
	  name=$$(basename $$source .cc); \
	  mkdir -p build/fuzz-corpus/$$name; \
	  echo "== $$name, $(FUZZ_SECONDS) s"; \
	  build/fuzz/$$name -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -timeout=60 -rss_limit_mb=4096 \
	    -artifact_prefix=build/fuzz-findings/$$name- build/fuzz-corpus/$$name $$(ls -d native/fuzz/corpus/$$name 2>/dev/null) \
	    >build/$$name.log 2>&1 || { tail -n 60 build/$$name.log; echo "the input is in build/fuzz-findings/"; exit 1; }; \
	  grep number_of_executed_units build/$$name.log; \
	done

# Everything, for at most an hour on one processor and half of that on two. RELIABILITY_OPTIONS=--coverage measures coverage as well.
reliability: build build-fuzzers  ## crash points, bit flips, faults, kills, simulation, fuzzing: half an hour on two processors
	cmake --build $(NATIVE)
	$(BIN)/python tests/reliability/report.py $(RELIABILITY_OPTIONS)

soak: build build-fuzzers  ## the same for SOAK_HOURS (1), going on where the last soak ended; writes docs/
	cmake --build $(NATIVE)
	$(BIN)/python tests/reliability/report.py --soak $(SOAK_HOURS) --ledger build/reliability/soak.jsonl --publish \
	  $(RELIABILITY_OPTIONS)

coverage: $(STAMPS)/coverage .venv/.packages  ## line, branch and MC/DC coverage of what the promises rest on
	@compiler=$$(tools/setup.sh clang 18); \
	cmake -S native -B build/coverage -G Ninja -DCMAKE_CXX_COMPILER=$$compiler -DCMAKE_C_COMPILER=$${compiler/++/} \
	  -DCAIRN_TESTS=ON -DCMAKE_CXX_FLAGS='-fprofile-instr-generate -fcoverage-mapping -fcoverage-mcdc' \
	  >build/coverage.log 2>&1 || { cat build/coverage.log; exit 1; }; \
	cmake --build build/coverage; \
	$(BIN)/python tests/reliability/core_coverage.py --build build/coverage --llvm $${compiler##*-}

bench: $(STAMPS)/bench build  ## measure: needs a quiet machine
	@$(BIN)/python tools/bench.py

bench-rdma: $(STAMPS)/bench build  ## measure RDMA and NVMe, on this machine's own or in the testbed; a quiet machine, root
	@$(BIN)/python tools/bench_rdma.py --build-only
	@tools/testbed/devices --get-ready
	@tools/testbed/run --nvme 2 --nvme-mb 2048 --nvme-apart --mem 5120 --timeout 3600 -- $(BIN)/python tools/bench_rdma.py

wheels: build  ## the wheels of both distributions, in dist/
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist . ./dpu
	@ls -l dist

lock: .venv/.uv  ## compile requirements/*.in again, to the newest versions they allow
	$(LOCK) --upgrade requirements/bootstrap.in -o requirements/bootstrap.txt
	$(LOCK) --upgrade requirements/build.in -o requirements/build.txt
	$(LOCK) --upgrade requirements/run.in -o requirements/run.txt
	$(LOCK) --upgrade requirements/dev.in -o requirements/dev.txt

clean:  ## remove everything that was made here, .venv included
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

build: $(STAMPS)/packages  ## compile what changed in native/ and put it where Python finds it
	@cmake --build $(NATIVE) --target cairnkv_native cairn_dpu_native
	@site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'); \
	for package in cairnkv cairn_dpu; do \
	  cmake --install $(NATIVE) --component $$package --prefix $$site >/dev/null; \
	done

# --- set-up, once. Two of the stamps stand inside .venv, so that they vanish with it. ---

$(STAMPS)/system: tools/setup.sh
	@tools/setup.sh system core
	@mkdir -p $(@D) && touch $@

$(STAMPS)/clang:
	@tools/setup.sh system core clang
	@mkdir -p $(@D) && touch $@

$(STAMPS)/coverage:
	@tools/setup.sh system core coverage
	@mkdir -p $(@D) && touch $@

$(STAMPS)/bench:
	@tools/setup.sh system core bench
	@mkdir -p $(@D) && touch $@

$(STAMPS)/qemu-%:
	@tools/setup.sh system core qemu-$*
	@mkdir -p $(@D) && touch $@

.venv/.uv: requirements/bootstrap.txt | $(STAMPS)/system
	@tools/setup.sh venv
	@touch $@

.venv/.packages: .venv/.uv requirements/build.txt requirements/run.txt requirements/dev.txt
	@tools/setup.sh python
	@touch $@

$(STAMPS)/packages: .venv/.packages pyproject.toml dpu/pyproject.toml | $(STAMPS)/system
	@tools/setup.sh packages
	@touch $@
