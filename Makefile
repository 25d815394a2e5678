# From a fresh clone: `make demo` compresses the shipped detector, `make test` runs every check. `make help` lists all.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo shares test check format lint types contracts house clean

# The first Python 3.11 or 3.12 that really starts (a name on the PATH may be a shim without an interpreter behind it).
PYTHON ?= $(shell for name in python3.11 python3.12 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 \
	&& { echo "$$name"; break; }; done)
BIN := .venv/bin
PROFILE ?= w4a6
STAGES ?= 4
# Without a GPU two processes of one thread each run the demo. They share out each batch of 8, so steps are those of one process.
PROCESSES ?= $(shell if [ "$$(env -u OMP_NUM_THREADS nproc)" -ge 2 ] && ! nvidia-smi -L >/dev/null 2>&1; then echo 2; else echo 1; fi)
QDBEV := $(if $(filter-out 1,$(PROCESSES)),$(BIN)/python scripts/in_processes.py $(PROCESSES),$(BIN)/qdbev)
SHARE := $(if $(filter 1 2 4 8,$(PROCESSES)),$(word $(PROCESSES),8 4 . 2 . . . 1))
SHARES := $(if $(filter-out 8,$(SHARE)),qat.batch_size=$(SHARE) distillation.schedule.batch_size=$(SHARE))
# The demo trains a third of the profile's steps, on half of its scenes.
SHORT := data.train_scenes=120 qat.steps_per_stage=[20,20,30,100]
# QUICK, a demo of two minutes: few scenes, few steps, few choices, a store of its own.
FEW := data.train_scenes=8 data.val_scenes=5 calibration.samples=2 evaluation.bootstrap_resamples=50 bit_plan.samples=1 \
	bit_plan.candidates=[2,4,8] qat.steps_per_stage=1 distillation.schedule.steps=2 distillation.auto_steps=1
DEMO := $(if $(QUICK),--store runs/quick) $(foreach word,$(SHARES) $(if $(QUICK),$(FEW),$(SHORT)),--set $(word))
# Each test process computes on one thread; pytest-xdist starts one process per core, four at most.
# Compiled tests are kept, whatever the shell says: half of what each process takes to collect them.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q \
	--numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

section = @printf '\n==== %s\n' "$(1)"
# Targets run while the command does; what they say is shown after it. Fails where either fails.
beside = said=$$(mktemp); $(MAKE) --no-print-directory $(1) >"$$said" 2>&1 & targets=$$!; $(2); failed=$$?; \
	wait "$$targets" || failed=$$?; cat "$$said"; rm -f "$$said"; exit $$failed

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1|\2/' | awk -F'|' '{printf "  %-16s%s\n", $$1, $$2}'

setup: ## make .venv with everything in it; a second time it is instant
	@if [ -z "$(PYTHON)" ]; then echo "No Python 3.11 or 3.12 was found: install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@"$(PYTHON)" scripts/setup.py

demo: shares setup ## compress the shipped detector on synthetic scenes, as the paper does and by bits of its own; QUICK=1: in minutes
	$(QDBEV) compress --profile $(PROFILE) --stages $(STAGES) $(DEMO)
	$(QDBEV) compress --profile $(PROFILE) --own-bits $(DEMO)
	$(BIN)/qdbev report --profile $(PROFILE) --format html $(DEMO)
ifdef QUICK
	@echo "QUICK: 5 scenes and a few steps show how it works; these numbers mean nothing."
endif

shares:
	@if [ -z "$(SHARE)" ]; then echo "PROCESSES=$(PROCESSES): a batch of 8 is shared out among 1, 2, 4 or 8 processes" >&2; exit 1; fi

test: setup format lint ## formatting, lint, types, import contracts, doctests, tests
	$(call section,doctests and tests)
	@$(call beside,types contracts,$(PYTEST))

check: setup format lint ## the same without the slow tests
	$(call section,doctests and tests but the slow ones)
	@$(call beside,types contracts,$(PYTEST) -m "not slow")

format: setup ## formatting, only looked at (to mend: .venv/bin/ruff format)
	$(call section,formatting)
	@$(BIN)/ruff format --check .

lint: setup ## lint
	$(call section,lint)
	@$(BIN)/ruff check .

types: setup ## types
	$(call section,types)
	@$(BIN)/mypy

contracts: setup ## which package may import which
	$(call section,import contracts)
	@$(BIN)/lint-imports --no-logo

house: setup ## draw docs/images/house.svg again from the imports
	@$(BIN)/python scripts/draw_house.py

clean: ## remove what tools and builds left behind; .venv, runs/ and the data stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
