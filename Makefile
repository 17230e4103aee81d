# `make demo` and `make test` set up .venv by themselves, then do what they say.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUT ?= demo_run

AUDIT := .venv-audit
# A process a core, each of one thread.
IN_PARALLEL := -n auto --dist worksteal

.PHONY: demo test lint slow docs audit oldest plain clean

demo: $(INSTALLED)  ## the whole chain on a simulated screen
	@echo "== demo: simulate, ingest, train, embed, profile, evaluate, report (into $(OUT)/)"
	$(BIN)/wsdino demo --out $(OUT)

test: lint  ## style, types and the fast tests
	@echo "== tests"
	OMP_NUM_THREADS=1 $(BIN)/pytest $(IN_PARALLEL)

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

# The tools need an environment of their own: what they depend on isn't ours.
audit: $(AUDIT)/.installed  ## known vulnerabilities of the pinned dependencies; secrets in the repository
	@echo "== secrets"
	git ls-files -z | xargs -0 $(AUDIT)/bin/detect-secrets-hook --exclude-files '^docs/.*\.svg$$'
	@echo "== vulnerabilities"
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(AUDIT)/.installed:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet 'pip-audit>=2.7' 'detect-secrets>=1.5'
	@touch $@

# Of each `name>=version` in pyproject.toml that users install, that version; what belongs to PyTorch
# is as new as it gets.
LOWEST := import re, tomllib; \
	project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	extras = project["optional-dependencies"]; \
	torchs = re.compile("torch|timm|numba|safetensors|scikit-image|tensorboard|umap"); \
	names = [*project["dependencies"], *extras["anndata"], *extras["images"]]; \
	print("\n".join(re.sub(">=", "==", each) for each in names if not torchs.match(each)))

# An old anyio's plugin warns of the newest pytest before any test; none of ours uses it. The newest
# pyparsing and click warn of names that an old matplotlib and Typer use: developers alone see it, so
# these are no bounds.
oldest:  ## the fast tests with the oldest dependencies that pyproject.toml allows
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) -c '$(LOWEST)' > .venv-oldest/lowest.txt
	.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/lowest.txt --editable '.[dev]' \
		'pyparsing<3.3' 'click<8.4'
	OMP_NUM_THREADS=1 .venv-oldest/bin/pytest -p no:anyio $(IN_PARALLEL)

plain:  ## the fast tests without the smaller extras; what needs one skips
	$(PYTHON) -m venv .venv-plain
	.venv-plain/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[anndata,images]' pytest \
		pytest-timeout pytest-xdist hypothesis copairs
	OMP_NUM_THREADS=1 .venv-plain/bin/pytest $(IN_PARALLEL)

clean:
	rm -rf $(VENV) $(AUDIT) .venv-oldest .venv-plain demo_run .mypy_cache .ruff_cache .pytest_cache

$(INSTALLED): pyproject.toml constraints.txt
	@echo "== set-up: a virtual environment in $(VENV) with PyTorch and the rest (several GB, minutes)"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "wsdino needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
