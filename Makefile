# make demo   what memedit does, on the shipped models, offline
# make test   lint, types, tests        make check   lint and types alone     (with CUDA the GPU's tests run, too: docs/gpu.md)
# make torture  what a memory must stand, in full: killed writers, a crowd, nonsense (minutes)
# make eval-small  every format of public data in ../shared/data, a few cases each, read and scored (two minutes of one core)
# make bench  the speed claims          make clean   remove the virtual environment and what builds left

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := $(shell grep -i '^torch==' constraints.txt)

.PHONY: demo test eval-small torture check bench clean install

demo: $(VENV)/.installed
	$(BIN)/memedit demo

test: check
	$(BIN)/python -m pytest -n auto --dist loadfile

torture: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/torture --rounds 200 --seconds 20 --inputs 2000

DATA := $(if $(MEMEDIT_DATA),$(MEMEDIT_DATA),../shared/data)

eval-small: $(VENV)/.installed
	@if test -d "$(DATA)"; then mkdir -p runs && \
	  OMP_NUM_THREADS=1 $(BIN)/memedit eval --suite small --folder "$(DATA)" --no-forced --max-new-tokens 8 --json runs/eval-small.json --fresh; \
	else echo "eval-small skipped: there are no data sets in $(DATA); set MEMEDIT_DATA to their folder"; fi

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/memedit bench all

install: $(VENV)/.installed

# torch first, from its pinned version: pulled in by another package it would bring gigabytes of CUDA
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu]"
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cpu,train,dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
