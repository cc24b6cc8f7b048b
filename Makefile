# `make train` and `make test` are all a newcomer needs; the rest is for those who change the code.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
SETUP := $(VENV)/.ready
# Files of tests are shared out among the cores, each whole, since what a file's tests share is made once in it.
CORES := -n logical --maxprocesses 4 --dist loadfile
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help setup train test test-all mutation lint ui clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# torch goes first: without it, a range in another package would bring several GB of CUDA.
$(SETUP): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "rm-rec needs Python 3.11 or newer; this is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2])'
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -c constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet -r requirements.txt
	$(RUN) -m pip check
	@touch $@

setup: $(SETUP)  ## make .venv with pinned versions

train: $(SETUP)  ## make a synthetic log, train on it, evaluate, register
	$(RUN) -m pipelines.make_log --out data/synthetic.parquet
	$(RUN) -m pipelines.train_ctr --config pipelines/recipes/quickstart.yaml --data.log data/synthetic.parquet --out runs/quickstart

test: $(SETUP)  ## the tests, without the slow ones
	$(RUN) -m pytest -q $(CORES)

test-all: $(SETUP)  ## every test
	$(RUN) -m pytest -q $(CORES) -m 'slow or not slow'

mutation: $(SETUP)  ## would the tests notice? small changes to the code, one at a time; long, and resumable
	$(RUN) -m tests.mutation

lint: $(SETUP)  ## style, types, and which package may import which
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

ui: $(SETUP)  ## MLflow's pages on http://127.0.0.1:5000
	$(VENV)/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1

clean:  ## remove what the make targets made; leaves .venv
	rm -rf runs data mlruns mlartifacts mlflow.db .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
