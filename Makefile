# Everything a person or CI does here. Each target makes the environment it needs in .venv.
.DEFAULT_GOAL := help
.PHONY: help run test e2e chaos portal docs lint lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
E2E    := tests/e2e
UV_COMPILE := $(BIN)/uv pip compile --quiet --python-version 3.11 --no-annotate --no-emit-find-links \
              --upgrade --custom-compile-command "make lock"

help:  ## show this
	@awk -F':.*## ' '/^[a-z0-9]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.train  ## train, register, judge, serve and ask one model, on the embedded digits
	$(BIN)/image-classifier run

test: $(VENV)/.test  ## the tests
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

e2e: $(VENV)/.test  ## the chain's cases, on the cluster that the environment names (tests/e2e/cluster.py)
	$(BIN)/pytest $(E2E) -m e2e --capture=no --verbose --exitfirst

chaos: $(VENV)/.test  ## things break while the chain runs and serves; wants the cluster to itself, and its node's processes
	$(BIN)/pytest tests/e2e -m chaos --capture=no --verbose

portal: $(VENV)/.test tests/portal/node_modules/.installed  ## the catalog entry, in a real Backstage (needs Node 20)
	$(BIN)/pytest tests/portal -m portal --capture=no --verbose

docs: $(VENV)/.docs  ## the documentation as pages in site/, as TAP's portal builds it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(VENV)/.test  ## resolve requirements/*.in anew into the pinned requirements/*.txt
	$(BIN)/pip install --quiet uv
	$(UV_COMPILE) requirements/test.in --output-file requirements/test.txt
	# The CPU wheel's local version is dropped, so that the pin also fits the build of any other index.
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/test.txt
	$(UV_COMPILE) requirements/train.in --constraint requirements/test.txt --output-file requirements/train.txt
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/train.txt
	$(UV_COMPILE) requirements/serve.in --constraint requirements/test.txt --output-file requirements/serve.txt
	$(UV_COMPILE) requirements/mlflow.in --output-file requirements/mlflow.txt
	$(UV_COMPILE) requirements/bom.in --constraint requirements/test.txt --output-file requirements/bom.txt
	$(UV_COMPILE) requirements/docs.in --constraint requirements/test.txt --output-file requirements/docs.txt

clean:  ## forget the environment and everything that was made
	rm -rf $(VENV) .image-classifier .pytest_cache .mypy_cache .ruff_cache site tests/portal/node_modules

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(BIN)/python requirements/train.txt pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements/train.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

$(VENV)/.test: $(VENV)/.train requirements/test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements/test.txt
	touch $@

$(VENV)/.docs: $(BIN)/python requirements/docs.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements/docs.txt
	touch $@

# Of all packages only the database is compiled, with the headers that lie beside node where they are there.
tests/portal/node_modules/.installed: tests/portal/package-lock.json
	cd tests/portal && npm ci --no-audit --no-fund --ignore-scripts
	cd tests/portal && npm_config_nodedir=$$(node -p 'path.resolve(process.execPath, "../..")') npm rebuild better-sqlite3
	touch $@
