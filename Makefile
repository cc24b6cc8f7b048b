# Start with `make train` and `make test`; the other targets are for development.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SETUP := $(VENV)/.ready
# Files of tests are shared out among the cores, each whole, since what a file's tests share is made once in it. They go in the
# order of their names: xdist would begin with those of many cases, and the longest files have few.
CORES := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup train test test-all coverage mutation lint wheel ui clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch is installed first: otherwise the version range of another package would install several GB of CUDA.
$(SETUP): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "rm-rec needs Python 3.11 or newer; this is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet -r requirements.txt
	$(RUN) -m pip check
	@touch $@

setup: $(SETUP)  ## create .venv with pinned versions

train: $(SETUP)  ## make a synthetic log, train a model on it, evaluate and register it
	$(RUN) -m pipelines.make_log --out data/synthetic.parquet
	$(RUN) -m pipelines.train_ctr --config pipelines/recipes/quickstart.yaml --data.log data/synthetic.parquet --out runs/quickstart

test: $(SETUP)  ## run the tests, except slow ones
	$(RUN) -m pytest -q $(CORES)

test-all: $(SETUP)  ## run all tests
	$(RUN) -m pytest -q $(CORES) -m 'slow or not slow'

coverage: $(SETUP)  ## run the tests and list the lines that none reaches (slower than `make test`)
	$(VENV)/bin/coverage erase
	$(VENV)/bin/coverage run -m pytest -q $(CORES)
	$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report

mutation: $(SETUP)  ## change the code in small ways, one at a time, and count the changes that the tests notice (long, resumable)
	$(RUN) -m tests.mutation

lint: $(SETUP)  ## check style, types, and imports between packages
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

# setuptools keeps copies in build/, and would put modules into the wheel that no longer exist.
wheel: $(SETUP)  ## build the wheels of rm-rec and of the CPU build's shim into dist/, beside constraints.txt
	rm -rf dist build third_party/fbgemm_gpu_shim/build
	$(RUN) -m pip wheel --quiet --no-deps --wheel-dir dist . ./third_party/fbgemm_gpu_shim
	cp constraints.txt dist/
	@ls dist

ui: $(SETUP)  ## start MLflow's UI on http://127.0.0.1:5000
	$(VENV)/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1

clean:  ## remove everything that the targets made, except .venv
	rm -rf runs data mlruns mlartifacts mlflow.db dist build third_party/fbgemm_gpu_shim/build .coverage .coverage.*
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
