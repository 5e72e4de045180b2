# make reproduce   install, run the quick figures, compare with the committed results
# make test        install, with fairseq, lint, check types, run the tests
# make fairseq     what the tasks translation and roberta need: built in three minutes, C++ compiler
# make bench       all benchmarks anew (half an hour; nothing else should run)
# make notebooks   execute the notebooks anew
# make figures     redraw every figure from results/          make claims   the verdict tables
# make report      results/site/: all of it as pages that open from disk

PYTHON ?= python3.11
VENV ?= .venv
RUN = $(VENV)/bin/python -m

.PHONY: install fairseq reproduce test lint bench figures claims report notebooks

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt laprop/kernels/cpu.cpp laprop/kernels/numbers.h
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --upgrade pip
	$(RUN) pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

fairseq: $(VENV)/fairseq

# Not isolated: its build would download a second torch.
$(VENV)/fairseq: $(VENV)/installed
	$(RUN) pip install --quiet --constraint constraints.txt cython setuptools
	$(RUN) pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev,fairseq]"
	touch $@

reproduce: install
	$(RUN) scripts.reproduce

test: fairseq lint
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

report: install
	$(RUN) scripts.report

bench: install
	$(RUN) pip install --quiet --constraint constraints.txt --editable ".[dev,bench]"
	$(RUN) scripts.bench_optimizer
	$(RUN) scripts.bench_grid
	$(RUN) scripts.bench_cifar10
	$(RUN) scripts.bench_rainbow
	$(RUN) scripts.bench_startup
	$(RUN) scripts.make_figures benchmarks

notebooks: install
	$(RUN) scripts.run_notebooks
