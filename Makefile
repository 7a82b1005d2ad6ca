.DEFAULT_GOAL := help
.PHONY: help install lint format test docs fuzz soak mutants release-check demo results results-gpu clean

PYTHON ?= python3
WORKERS ?= 2
MINUTES ?= 10
PYTEST_ARGS ?=
FILES ?= $(wildcard ddm/schedules/optimal/[a-z]*.py)

BIN := .venv/bin
INSTALLED := .venv/.installed
DOCS_INSTALLED := .venv/.docs

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv and install ddm with its development tools

$(INSTALLED): pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

lint: $(INSTALLED) ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Apply the fixes that ruff can make by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread per worker: torch would otherwise start as many threads as cores in each of them.
test: $(INSTALLED) ## Run the tests (WORKERS=2 processes; PYTEST_ARGS="-m 'not slow'")
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) $(PYTEST_ARGS)

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(DOCS_INSTALLED) ## Build the manual in build/docs; a warning or a broken link is an error
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo 'open build/docs/index.html'

mutants: $(INSTALLED) ## Change the code a little and list what no test notices (FILES=...)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(FILES)

soak: $(INSTALLED) ## Train, kill, resume, fill the disk and evaluate at random (MINUTES=10)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py $(MINUTES)

fuzz: $(INSTALLED) ## Throw ten times as many bad inputs at the commands as the tests do
	FUZZ=10 OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) tests/fuzz

release-check: lint test ## Check all that a release needs, but for its tag
	@version=$$($(BIN)/ddm --version); \
	grep -q "^## \[$$version\]" CHANGELOG.md || { echo "CHANGELOG.md has no section [$$version]"; exit 1; }; \
	grep -q "^version: $$version$$" CITATION.cff || { echo "CITATION.cff names another version"; exit 1; }; \
	test -z "$$(git status --porcelain)" || { echo "there are changes without a commit"; exit 1; }; \
	echo "$$version can be tagged"

demo: $(INSTALLED) ## Train, sample and compare schedules on a toy task, on the CPU
	$(BIN)/ddm demo

# What measures time runs alone; the others share the cores, the longest first.
TIMED := core_speed data_loading schedule_speed
LONG := trained_orders trained_models exact_chains trained_gamma
BENCHMARKS := $(LONG) $(filter-out _% problems gpu_models gpu_text $(TIMED) $(LONG),$(basename $(notdir $(wildcard scripts/benchmarks/*.py))))

results: $(INSTALLED) ## Run every script of scripts/benchmarks/ again (WORKERS=2 at a time)
	@mkdir -p runs/benchmarks
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	$(BIN)/python -m pip install --quiet --no-deps bionemo-moco # it demands numpy < 2 without need
	$(BIN)/python scripts/prepare_data.py folk --limit 1200
	@set -e; for name in $(TIMED); do \
		echo "== $$name"; $(BIN)/python scripts/benchmarks/$$name.py; \
	done
	@echo 'Output and progress of the others: runs/benchmarks/*.log'
	@printf '%s\n' $(BENCHMARKS) | OMP_NUM_THREADS=1 xargs -P $(WORKERS) -I{} \
		sh -c 'echo "== {}"; $(BIN)/python scripts/benchmarks/{}.py > runs/benchmarks/{}.log 2>&1 || \
		{ cat runs/benchmarks/{}.log; exit 255; }'

results-gpu: $(INSTALLED) ## Run those that need a GPU: text, and models of full size
	$(BIN)/python scripts/benchmarks/gpu_text.py
	$(BIN)/python scripts/benchmarks/gpu_models.py

clean: ## Remove the environment, build outputs and caches
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find ddm callbacks datamodules scripts tests -type d -name __pycache__ -prune -exec rm -rf {} +
