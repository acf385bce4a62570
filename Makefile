# Everything below sets itself up; it needs Python >= 3.10 with venv, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup test test-all browser test-browser test-mmseg demo lint benchmark clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow and not data and not browser"

test-all: setup
	$(BIN)/python -m pytest

browser:
	command -v chromium > /dev/null || { apt-get update -q && apt-get install -q -y chromium; } > /dev/null

test-browser: setup
	$(BIN)/python -m pytest -m "browser and not data"

$(VENV)/.mmseg: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[mmseg]"
	# MMSegmentation brings opencv-python, of the same files, which needs the display libraries that servers lack
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps -c constraints.txt \
		opencv-python-headless
	touch $@

test-mmseg: $(VENV)/.mmseg
	$(BIN)/python -W ignore -c "import fungi_seg.integrations.mmseg"
	$(BIN)/python -m pytest -m "mmseg and not data"

demo: setup
	$(BIN)/fungi-seg demo

lint: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: setup
	$(BIN)/python tools/benchmark.py configs/benchmark.yaml $(ARGS)

clean:
	rm -rf $(VENV) outputs .mypy_cache .ruff_cache .pytest_cache
