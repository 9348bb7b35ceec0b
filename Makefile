PYTHON ?= python3
BIN := .venv/bin
# Two processes test at once; threads of numpy's that wait for each other in both
# make a decomposition of a second one of a minute. Programs that compile in less
# than JAX's second are kept too: the tests have thousands of them, and both
# processes and the next run find them.
test test-slow: export OPENBLAS_NUM_THREADS = 1
test test-slow: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0

.PHONY: demo test test-slow lint mutants campaign shell
demo: .venv/installed
	$(BIN)/python -m experiments.demo --out=out/demo

test: .venv/installed-test
	$(BIN)/python -m pytest -n auto --dist loadscope

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

# A shell in which `python` and `invjax` are those of the environment.
shell: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/.venv" $${SHELL:-bash}

# Plants small faults and lists those that no test finds; takes an hour or two.
mutants: .venv/installed-test
	$(BIN)/python tests/mutants.py --count=300 --out=out/mutants

# Reads 10,000 damaged inputs and kills 50 runs; takes half an hour at most.
campaign: .venv/installed-test
	$(BIN)/python -m tests.campaign --count=10000 --kills=50 --out=out/campaign

lint: .venv/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@
