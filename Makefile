# make reproduce   install, run the quick figures, compare with the committed results
# make check       install, lint, check types, run the fast tests: what to run while editing
# make test        install, with fairseq, lint, check types, run all tests
# make fairseq     what the tasks translation and roberta need: built in three minutes, C++ compiler
# make bench       all benchmarks but fairseq's (half an hour; nothing else should run)
# make notebooks   execute the notebooks anew
# make figures     redraw every figure from results/
# make claims      the verdict of every claim; results/CLAIMS.md and DISCREPANCIES.md
# make report      results/site/: all of it as pages that open from disk
# make build       figures, claims, report and notebooks in one

PYTHON ?= python3.11
VENV ?= .venv
RUN = $(VENV)/bin/python -m
# Errors only: setuptools warns on each build that two tables of pyproject.toml are experimental.
INSTALL = $(RUN) pip install --quiet --quiet --constraint constraints.txt

.PHONY: install fairseq reproduce check test lint bench build figures claims report notebooks

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt $(wildcard laprop/kernels/*.cpp laprop/kernels/*.h)
	@echo "installing into $(VENV): 7 GB, most of it torch; two to three minutes after the download"
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --quiet --upgrade pip
	$(INSTALL) --editable ".[dev]"
	touch $@

fairseq: $(VENV)/fairseq

# Not isolated: its build would download a second torch.
$(VENV)/fairseq: $(VENV)/installed
	$(INSTALL) cython setuptools
	$(INSTALL) --no-build-isolation --editable ".[dev,fairseq]"
	touch $@

reproduce: install
	$(RUN) scripts.reproduce

check: lint
	$(RUN) pytest -n 2 --dist worksteal -m "not slow"

test: fairseq lint
	$(RUN) pytest -n 2 --dist worksteal

lint: install
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

build: install
	$(RUN) scripts.build

figures claims report notebooks: install
	$(RUN) scripts.build $@

bench: install
	$(INSTALL) --editable ".[dev,bench]"
	$(RUN) scripts.benchmarks.optimizer
	$(RUN) scripts.benchmarks.grid
	$(RUN) scripts.benchmarks.cifar10
	$(RUN) scripts.benchmarks.rainbow
	$(RUN) scripts.benchmarks.startup
	$(RUN) scripts.make_figures benchmarks
