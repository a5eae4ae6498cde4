# Everything that a person or CI does here. Each target makes the environment it needs in .venv.
.DEFAULT_GOAL := help
.PHONY: help run test test-fast e2e chaos portal docs lint generate lock clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
E2E    := tests/e2e

# uv compiles nothing; the first process that imports a module does, for all later ones.
unexport PYTHONDONTWRITEBYTECODE

# The machine's uv, or the pinned one, which pip brings into the environment.
UV := $(or $(shell command -v uv),$(BIN)/uv)
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
# uv looks where pip would look for packages, such as PyTorch's CPU wheel.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
UV_COMPILE := $(UV) pip compile --quiet --python-version 3.11 --no-annotate --no-emit-find-links \
              --upgrade --custom-compile-command "make lock"

help:  ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.train  ## train, register, judge and serve a model of the embedded digits, and send it one image
	$(BIN)/image-classifier run

test: $(VENV)/.test  ## run all tests that need no cluster
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.test  ## run the tests that neither train nor start a server
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile \
	  -m 'not slow and not e2e and not chaos and not portal'

e2e: $(VENV)/.test  ## run the end-to-end tests on the cluster that the environment names (tests/e2e/cluster.py)
	$(BIN)/pytest $(E2E) -m e2e --capture=no --verbose --exitfirst

chaos: $(VENV)/.test  ## kill parts of a cluster while the chain runs and serves; needs root and the cluster to itself
	$(BIN)/pytest tests/e2e -m chaos --capture=no --verbose

portal: $(VENV)/.test tests/portal/node_modules/.installed  ## load the catalog entry into a real Backstage (needs Node 20)
	$(BIN)/pytest tests/portal -m portal --capture=no --verbose

docs: $(VENV)/.docs  ## build the documentation in site/, as TAP's portal builds it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/.test  ## check style, types, and the imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

generate: $(VENV)/.test  ## write the files that are derived from the code: Tekton params, templates, docs
	$(BIN)/python -m tools.generate

lock: $(VENV)/.test  ## resolve requirements/*.in into the pinned requirements/*.txt
	$(UV_COMPILE) requirements/test.in --output-file requirements/test.txt
	# The local version of the CPU wheel is dropped, so that the pin also matches the build of any other index.
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/test.txt
	$(UV_COMPILE) requirements/train.in --constraint requirements/test.txt --output-file requirements/train.txt
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements/train.txt
	$(UV_COMPILE) requirements/serve.in --constraint requirements/test.txt --output-file requirements/serve.txt
	$(UV_COMPILE) requirements/mlflow.in --output-file requirements/mlflow.txt
	$(UV_COMPILE) requirements/mlserver.in --output-file requirements/mlserver.txt
	$(UV_COMPILE) requirements/bom.in --constraint requirements/test.txt --output-file requirements/bom.txt
	$(UV_COMPILE) requirements/docs.in --constraint requirements/test.txt --output-file requirements/docs.txt

clean:  ## remove the environment and everything that was made
	rm -rf $(VENV) .image-classifier .pytest_cache .mypy_cache .ruff_cache site tests/portal/node_modules

$(VENV)/.made: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	command -v uv >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements/uv.txt
	touch $@

$(VENV)/.train: $(VENV)/.made requirements/train.txt pyproject.toml
	$(INSTALL) --requirement requirements/train.txt
	$(INSTALL) --no-deps --editable .
	touch $@

$(VENV)/.test: $(VENV)/.train $(VENV)/mlserver/.made requirements/test.txt
	$(INSTALL) --requirement requirements/test.txt
	touch $@

$(VENV)/mlserver/.made: $(VENV)/.made requirements/mlserver.txt
	$(BIN)/python -m venv --without-pip $(VENV)/mlserver
	$(UV) pip install --quiet --python $(VENV)/mlserver/bin/python --requirement requirements/mlserver.txt
	touch $@

$(VENV)/.docs: $(VENV)/.made requirements/docs.txt
	$(INSTALL) --requirement requirements/docs.txt
	touch $@

# Of all packages only the database is compiled, with node's own headers if they are installed.
tests/portal/node_modules/.installed: tests/portal/package-lock.json
	cd tests/portal && npm ci --no-audit --no-fund --ignore-scripts
	cd tests/portal && npm_config_nodedir=$$(node -p 'path.resolve(process.execPath, "../..")') npm rebuild better-sqlite3
	touch $@
