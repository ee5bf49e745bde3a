# Everything here sets itself up: a virtual environment in .venv, and in it the newest of what is needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Newer versions of pip are no news: the newest is installed.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The package as it is installed, `prismify.cli` and `prismify.recipes` included, for mypy to see whole.
TYPED := .venv/typed/prismify
MYPY = rm -rf $(TYPED) && mkdir -p $(TYPED) && ln -s $(CURDIR)/prismify/* $(CURDIR)/cli $(CURDIR)/recipes $(TYPED) && \
	MYPYPATH=.venv/typed $(BIN)/mypy -p prismify

PYTEST = $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-slow docs lint clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(MYPY)
	$(PYTEST) -m "not slow"

# What `test` leaves out: the whole zoo, kills by the dozen, a thousand damaged files, several processes.
test-slow: $(STAMP)
	$(PYTEST) -m slow

# The site of the pages in docs, notebooks run: open build/site/index.html, which needs no network.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 RUN_NOTEBOOKS=1 $(BIN)/python -m mkdocs build --strict

lint: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(MYPY)

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "prismify needs Python 3.11 or newer")'
	@echo "setting up .venv: the first time this downloads PyTorch, which takes minutes"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo build dist *.egg-info
