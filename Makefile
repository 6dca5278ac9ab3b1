# Everything starts here; `make` alone lists what there is.

# The oldest supported Python first: the pins in constraints.txt are tested with it.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
  && command -v $$python && break; done)

# How many processes `make test` uses: each is a core and about 1.5 GB of memory. 0: none, so that
# a debugger works.
WORKERS ?= 2

# A stamp is newer than everything that decides what is installed, or the install runs again.
RUN := .venv/.installed
TEST := .venv/.installed-test
EXTRAS := .venv/.installed-extras
SOURCES := Makefile pyproject.toml setup.py constraints.txt
PIP := .venv/bin/python -m pip install --no-input --disable-pip-version-check --no-compile \
  -c constraints.txt
# pip compiles file by file, this on every core, but for what hardly anybody imports. Some packages
# carry templates that are no Python, and it complains of these; what is needed is compiled at import
# in any case.
RARE := /tests/|/ray/rllib/|/transformers/models/(?!auto|gpt2|llama|qwen)
COMPILE := .venv/bin/python -m compileall -qq -j 0 -x '$(RARE)' .venv/lib || true

.PHONY: help pareto test test-extras lint docs clean
.DELETE_ON_ERROR:

help:
	@echo 'make pareto                    run the default study and show its Pareto front'
	@echo 'make pareto STUDY=arithmetic   the same for another study: a bundled name or a path'
	@echo 'make test                      run all tests; ARGS="-k front" passes options to pytest,'
	@echo '                               WORKERS=4 takes four processes instead of two'
	@echo 'make test-extras               run the tests that need what an extra installs (Ray, TRL)'
	@echo 'make lint                      check style, format and types'
	@echo 'make docs                      write the generated parts of the documents anew'
	@echo 'make clean                     remove .venv, build outputs and caches; runs/ stays'

pareto: $(RUN)
	.venv/bin/moalign pareto $(STUDY) $(ARGS)

# A file stays with one worker, and its fixtures with it; tests/conftest.py says which come first.
test: $(TEST)
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# One after the other: a Ray cluster takes the machine for itself.
test-extras: $(EXTRAS)
	.venv/bin/python -m pytest -m extras tests/extras tests/plugins/executors \
	  tests/plugins/optimizers $(ARGS)

lint: $(TEST)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: $(RUN)
	.venv/bin/python tools/make_docs.py

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@test -n '$(PYTHON)' || { echo 'moalign needs Python 3.11 or newer, and none is on the PATH.' \
	  'Install one, or name one: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	rm -rf .venv  # left behind by an interrupted install or by a Python that is gone
	'$(PYTHON)' -m venv .venv

$(RUN): $(SOURCES) | .venv/bin/python
	$(PIP) -e .
	@$(COMPILE)
	@touch $@

$(TEST): $(SOURCES) | .venv/bin/python
	$(PIP) -e '.[test]'
	@$(COMPILE)
	@touch $@ $(RUN)

$(EXTRAS): $(SOURCES) | .venv/bin/python
	$(PIP) -e '.[test,ray,bench]'
	@$(COMPILE)
	@touch $@ $(TEST) $(RUN)
