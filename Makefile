# Both `make demo` and `make test` work as the first command in a fresh clone.

PYTHON ?= python3
VENV := .venv
# Without bytecode files, each test process would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
READY := $(VENV)/ready
# One thread a process: two processes with two threads each would compete for two cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Test files in two processes, then the tests marked `alone` in one. pytest itself runs no test, so that it prints a
# summary even if a library ends the process of a test. No test of the simulated NPU is about time or signals.
PARALLEL := -m 'not slow and not alone' --numprocesses 2 --dist loadfile
ALONE := -m 'alone and not slow' --numprocesses 1
ON_NPU := -m 'not slow' --numprocesses 2 --dist loadfile
SLOW := -m slow --numprocesses 1

.PHONY: demo test test-slow test-npu test-npu-adapter lint bench clean

demo: $(READY)
	$(BIN)/python recipes/demo.py

# On the CPU, then the device tests on a simulated NPU.
test: $(READY)
	$(PYTEST) $(PARALLEL)
	$(PYTEST) $(ALONE)
	TEST_DEVICE=npu $(PYTEST) $(ON_NPU)

test-npu: $(READY)
	TEST_DEVICE=npu $(PYTEST) $(ON_NPU)

# Tests on the vendor's torch_npu, without CANN and without a card.
test-npu-adapter:
	$(PYTHON) tests/npu_adapter/run.py

test-slow: $(READY)
	$(BIN)/python -m pytest $(SLOW)
	TEST_DEVICE=npu $(BIN)/python -m pytest $(SLOW)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	[ ! -x $(BIN)/hadolint ] || $(BIN)/hadolint docker/Dockerfile docker/Dockerfile.ascend

bench: $(READY)
	$(BIN)/python benchmarks/dub.py --face $(FACE)

# Without python3-venv, Debian's Python has no ensurepip. OpenCV's desktop build needs libGL, which servers lack,
# so the headless build replaces it there.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "Python cannot create a virtual environment: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c 'import cv2' 2>/dev/null || \
		$(BIN)/pip install --quiet --no-deps --force-reinstall -c constraints.txt opencv-python-headless
	@touch $@

clean:
	rm -rf $(VENV) results build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
