# `make demo` and `make test` set up .venv by themselves, then do what they say.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUT ?= demo_run

.PHONY: demo test lint slow docs clean

demo: $(INSTALLED)  ## the whole chain on a simulated screen
	@echo "== demo: simulate, ingest, train, embed, profile, evaluate, report (into $(OUT)/)"
	$(BIN)/wsdino demo --out $(OUT)

test: lint  ## style, types and the fast tests
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

lint: $(INSTALLED)
	@echo "== style"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@echo "== types"
	$(BIN)/mypy

slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/pytest -m slow

docs: $(INSTALLED)  ## the manual, strictly, into build/manual/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) demo_run .mypy_cache .ruff_cache .pytest_cache

$(INSTALLED): pyproject.toml constraints.txt
	@echo "== set-up: a virtual environment in $(VENV) with PyTorch and the rest (several GB, minutes)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsdino needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
