# Needs Python 3.11 or newer and make; everything else it installs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint format docs gallery clean

demo: $(VENV)/installed
	$(BIN)/crlviz demo $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --durations 10 $(ARGS)

test-all: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The site, into build/docs; a warning is an error.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs $(ARGS)

# Every picture of the documentation, made anew.
gallery: $(VENV)/installed-test
	$(BIN)/python docs/gallery.py $(ARGS)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("crlviz needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build/docs build/gallery .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
