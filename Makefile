# Everything from a bare clone: each target makes its own .venv when there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format reference screenshot clean

# Gated training from end to end, offline, on a laptop's processor: about two minutes.
# A gate that stops the run (exit code 3) is what the demo is there to show.
demo: $(STAMP)
	@$(BIN)/aldente run schedules/pocket.yaml; code=$$?; \
	if [ $$code -eq 3 ]; then exit 0; fi; exit $$code

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The page of every field of a schedule, from the models.
reference: $(STAMP)
	$(BIN)/aldente schedule-reference --out docs/schedule-reference.md

# The README's picture: the trade-off of the run that `make demo` left. Needs chromium.
screenshot: $(STAMP)
	$(BIN)/python benchmarks/screenshot.py runs/pocket --page tradeoff --height 940 \
		--out docs/images/tradeoff.png

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache
