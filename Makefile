PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# A thread for each worker: two workers with two threads each are slower than one.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help install demo test check docs clean

help:
	@echo "make demo    install, then train, evaluate, index and search on the built-in world"
	@echo "make test    install, then run every test"
	@echo "make check   format, lint, types and the quick tests, as before a commit"
	@echo "make docs    the documentation, as a site in site/"

# The marker is newer than pyproject.toml exactly when the environment is up to date.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "amodal needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,open_clip,pretrained,sentence_transformers]'
	@touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/amodal quickstart --out runs/quickstart

test: install
	$(PYTEST)

check: install
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/python docs/recipe_keys.py --check
	$(if $(SKIP_TESTS),,$(PYTEST) -m "not slow")

docs: install
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python docs/public_names.py
	$(BIN)/python docs/recipe_keys.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs .mypy_cache .ruff_cache .pytest_cache
