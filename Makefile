# Everything runs in .venv, which the first target that needs it makes. Installed by uv, which pip puts there where the
# machine has none, or by pip where that cannot be; nothing is installed outside .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Bytecode is kept, whatever the environment says: every process would compile torch and all the rest again, ten seconds each.
export PYTHONDONTWRITEBYTECODE :=
EXTRAS := cpu,mini,heic,serve,watch,kafka,mcp,map,demo,dev,docs

.PHONY: help demo test quick lint types docs bench wheel clean

help:
	@echo "make demo   embed a sample feed, search it, train a head on it, show what came out"
	@echo "make test   run the tests        make quick  all but the slow ones"
	@echo "make lint   ruff                 make types  mypy"
	@echo "make docs   the site, build/site make bench  every benchmark (half an hour)"
	@echo "make wheel  build dist/*.whl     make clean  remove what these made"

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "installing icehouse and what it needs into $(VENV): a few minutes the first time"
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --clear --python $(PYTHON) $(VENV) && \
	    uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	    $(PYTHON) -m venv --clear $(VENV) && \
	    if $(BIN)/python -m pip install --quiet -c constraints.txt uv 2>/dev/null; then \
	        $(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	    else \
	        $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'; \
	    fi; \
	fi
	@touch $@

demo: $(VENV)/ready
	$(BIN)/icehouse demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Checkers cannot follow the editable install's import hook, so the built package is checked.
types: $(VENV)/ready
	rm -rf build/types build/lib && mkdir -p build/types
	$(BIN)/python -m build --wheel --outdir build/types . >build/types/build.log 2>&1 || (cat build/types/build.log; exit 1)
	cd build/types && ../../$(BIN)/python -m zipfile -e icehouse-*.whl . && \
	    ../../$(BIN)/mypy --config-file ../../pyproject.toml -p icehouse

# What is generated is compared by the tests; this fails on a broken link, and on a name that mkdocstrings cannot find.
docs: $(VENV)/ready
	$(BIN)/python docs/generate.py --site build/docs
	$(BIN)/zensical build --clean --strict

bench: $(VENV)/ready
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

wheel: $(VENV)/ready
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
