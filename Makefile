# mlwb: `make run` and `make test` need Python 3.11 to 3.13, git and make, and no earlier step.
# Another interpreter: make run PYTHON=/path/to/python3.12 (it counts when .venv is made)

SHELL  := /bin/sh
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.mlwb-installed
# one thread a process: the tests and stages run side by side, and small fits are faster that way
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install run test lab lint ci-checks export imports messages bench bench-data soak campaign campaign-data wheel-check clean distclean
.DEFAULT_GOAL := help

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: $(STAMP) ## the main job: the whole lifecycle on 2013's New York flights
	@$(BIN)/mlwb run

test: $(STAMP) ## all tests: the library notebooks (nbdev) and tests/ (pytest)
	@code=0; $(BIN)/nbdev-test || code=1; $(BIN)/python -m pytest || code=1; exit $$code

lab: $(STAMP) ## open the project in JupyterLab
	@$(BIN)/mlwb lab

lint: $(STAMP) ## ruff
	@$(BIN)/ruff check mlwb tests benchmarks

ci-checks: lint ## ruff, and that nbdev's clean and export would change nothing (seconds; before a commit)
	@$(BIN)/python -m pytest tests/test_packaging.py tests/test_repo.py -k "clean_leaves or export_leaves or stage_ or library_ or pins or constraints or private or machines"

export: $(STAMP) ## write mlwb/ from the notebooks, and clean these
	@$(BIN)/nbdev-export
	@$(BIN)/nbdev-clean

imports: $(STAMP) ## write down what the stages imported in the latest run, for kernels to load beforehand on a first run
	@$(BIN)/python -c "import json; from pathlib import Path; from mlwb.core.workspace import find_project; from mlwb.run.plan import hints; \
	from mlwb.run.record import latest; text = json.dumps(hints(latest(find_project())), indent=1); Path('mlwb/run/imports.json').write_text(text + '\n')"

messages: $(STAMP) ## collect the messages of the code into the Korean catalogue, keeping its translations
	@pot=$$(mktemp) && trap 'rm -f "$$pot"' EXIT && \
	$(BIN)/pybabel -q extract -F pyproject.toml -k msg -k _ --no-location --sort-output --project=mlwb --version=0 -o "$$pot" . && \
	$(BIN)/pybabel -q update -i "$$pot" -d mlwb/locale -D mlwb -l ko --no-fuzzy-matching --ignore-obsolete --no-wrap \
	  --ignore-pot-creation-date
	@$(BIN)/python -m pytest tests/test_repo.py -k catalogue

bench: $(STAMP) ## the benchmarks; each writes a table to benchmarks/results/
	@for b in main_job profile runner; do $(BIN)/python "benchmarks/$$b.py" || exit 1; done

bench-data: $(STAMP) ## a CSV of 3 GB extracted, validated and profiled; writes benchmarks/results/data.md (15 minutes, 8 GB of disk)
	@$(BIN)/python benchmarks/data.py

soak: $(STAMP) ## 300 stages in warm kernels, two side by side; writes benchmarks/results/soak.md (ten minutes)
	@$(BIN)/python tests/campaigns/soak.py

campaign: $(STAMP) ## 60 runs killed at random moments and gone on with; writes benchmarks/results/campaign.md (an hour; fewer: KILLS=6)
	@$(BIN)/python tests/campaigns/kills.py $(if $(KILLS),--kills $(KILLS))

campaign-data: $(STAMP) ## 50 extracts and appends killed; writes benchmarks/results/data_campaign.md (six minutes; fewer: KILLS=6)
	@$(BIN)/python tests/campaigns/data_kills.py $(if $(KILLS),--kills $(KILLS))

wheel-check: $(STAMP) ## build the wheel, install it (core only) in a fresh environment, use it outside of the repository
	@bash .ci/wheel

clean: ## remove caches and builds; workspace/, reports/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache _proc
	find mlwb tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +
	find notebooks -name .ipynb_checkpoints -prune -exec rm -rf {} +

distclean: clean ## remove .venv as well
	rm -rf $(VENV)

install: $(STAMP) ## only make .venv and install into it

# ---------------------------------------------------------------------------------------------------------------------
# The environment. The stamp is written last and holds the place of the checkout: an install that was interrupted goes on
# where it stopped, and a checkout that was moved or copied together with its .venv gets a new one (scripts in a .venv
# name their interpreter by its whole path, and the copy would import the original's code).

ifneq ($(shell cat $(STAMP) 2>/dev/null),$(shell pwd))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	here=$$(pwd); was=$$(cat $(STAMP) 2>/dev/null || true); rm -f $(STAMP); \
	ok='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; \
	python="$(PYTHON)"; \
	if [ -n "$$python" ]; then \
	  "$$python" -c "$$ok" 2>/dev/null || { \
	    echo "mlwb needs Python 3.11, 3.12 or 3.13, and PYTHON=$$python is $$("$$python" -V 2>&1 | head -n 1)." \
	         "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	else \
	  for p in python3.11 python3 python3.12 python3.13 python; do \
	    if "$$p" -c "$$ok" >/dev/null 2>&1; then python=$$p; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "mlwb needs Python 3.11, 3.12 or 3.13, and python3 here is $$(python3 -V 2>&1 | head -n 1)." \
	         "Install one of these, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; \
	  fi; \
	fi; \
	if [ -n "$$was" ] && [ "$$was" != "$$here" ]; then echo "$(VENV) belongs to $$was: making it anew"; rm -rf $(VENV); fi; \
	if ! $(BIN)/python -c "$$ok; import pip" >/dev/null 2>&1; then \
	  echo "Making $(VENV) with $$("$$python" -V)"; \
	  "$$python" -m venv --clear $(VENV) || { \
	    echo "$$python can't make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi; \
	echo "Installing from constraints.txt into $(VENV) (minutes the first time)"; \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[all,dev]"; \
	$(BIN)/python -m pip check; \
	printf '%s\n' "$$here" > $(STAMP)
