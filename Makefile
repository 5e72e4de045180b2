# make reproduce   install, run the quick figures, compare with the committed results
# make test        install, lint, check types, run the tests
# make figures     redraw every figure from results/          make claims   the verdict tables

PYTHON ?= python3.11
VENV ?= .venv
RUN = $(VENV)/bin/python -m

.PHONY: install reproduce test lint figures claims

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt laprop/kernels/cpu.cpp
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

reproduce: install
	$(RUN) scripts.reproduce

test: install lint
	$(RUN) pytest -n 2 --dist worksteal

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

figures: install
	$(RUN) scripts.make_figures

claims: install
	$(RUN) scripts.check_claims
	$(RUN) scripts.make_discrepancies
