# Everything runs in .venv, which the first target that needs it makes. uv is used where it is there, else pip.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := cpu,mini,heic,demo,dev

.PHONY: help demo test lint types bench wheel clean

help:
	@echo "make demo   embed a sample feed, search it, train a head on it, show what came out"
	@echo "make test   run the tests        make lint   ruff"
	@echo "make types  mypy                 make bench  every benchmark (half an hour)"
	@echo "make wheel  build dist/*.whl     make clean  remove what these made"

$(VENV)/ready: pyproject.toml constraints.txt
	@command -v uv >/dev/null 2>&1 || $(PYTHON) -m pip install --quiet --user uv 2>/dev/null || true
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --clear --python $(PYTHON) $(VENV) && \
	    uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	    $(PYTHON) -m venv --clear $(VENV) && \
	    $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

demo: $(VENV)/ready
	$(BIN)/icehouse demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Checkers cannot follow the editable install's import hook, so the built package is checked.
types: $(VENV)/ready
	rm -rf build/types build/lib && mkdir -p build/types
	$(BIN)/python -m build --wheel --outdir build/types . >build/types/build.log 2>&1 || (cat build/types/build.log; exit 1)
	cd build/types && ../../$(BIN)/python -m zipfile -e icehouse-*.whl . && \
	    ../../$(BIN)/mypy --config-file ../../pyproject.toml -p icehouse

bench: $(VENV)/ready
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

wheel: $(VENV)/ready
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
