# `make up` and `make test` need Python 3.11+ and make, nothing else. `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help install install-test install-browser up test browser screenshots lint chaos bench docs site links lock format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

install:
	@$(PYTHON) deploy/install.py requirements.lock

install-test:
	@$(PYTHON) deploy/install.py requirements-test.lock
	@$(PYTHON) deploy/install.py requirements-clients.lock

install-browser:
	@$(PYTHON) -m tests.browser.chromium
	@$(PYTHON) deploy/install.py requirements-test.lock
	@$(PYTHON) deploy/install.py requirements-browser.lock

up: install ## install and run everything on this machine
	@exec $(BIN)/relay up

test: install-test lint ## install what the tests need, and pass them all
	@$(BIN)/python -m pytest -n 3 --dist loadfile

browser: install-browser ## the console in a real Chromium; pictures of each page are left in build/screenshots
	@$(BIN)/python -m pytest -m browser tests/browser

screenshots: install-browser ## feed a relay for MINUTES (10), and take pictures of each page of its console
	@$(BIN)/python -m tests.browser.tour --minutes $(or $(MINUTES),10)

lint: install-test ## style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache >.lint-imports.log 2>&1 || { cat .lint-imports.log; exit 1; }
	@rm -f .lint-imports.log

bench: install-test ## ratios within one run on this machine, see bench/README.md
	@$(BIN)/python -m bench

chaos: install-test ## faults against a real relay, and the page of guarantees; FAULT=name for one row
	@$(BIN)/python -m tests.chaos $(FAULT)

docs: install-test ## write docs/reference and the JSON Schema from the code
	@$(BIN)/python docs/generate.py

site: install-test ## build/site: the documentation as HTML; a link that leads nowhere is an error
	@$(BIN)/python -m sphinx -W --keep-going -q -c docs -d build/doctrees -b html . build/site
	@echo build/site/index.html

links: install-test ## ask the addresses elsewhere that the documentation names; needs a network
	@$(BIN)/python -m sphinx -q -c docs -d build/doctrees -b linkcheck . build/links

format: install-test ## what the formatter can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: ## pin the newest releases that pyproject.toml allows
	@$(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv
	@.venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --upgrade \
		--group build pyproject.toml -o requirements.lock
	@.venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header \
		--group build --group test -c requirements.lock pyproject.toml -o requirements-test.lock
	@.venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header --upgrade \
		--group pyproject.toml:browser -c requirements-test.lock -o requirements-browser.lock
	@printf 'gunicorn-h1c\n' | .venv-lock/bin/uv pip compile --quiet --universal --generate-hashes --no-deps --no-header - \
		-o requirements-fast.lock
	@cd tests/clients && ../../.venv-lock/bin/uv pip compile --quiet --config-file uv.toml --universal --generate-hashes \
		--python-version 3.11 --no-header --upgrade requirements.in -o ../../requirements-clients.lock
	@rm -rf .venv-lock

clean: ## remove what was installed and built; data in .relay stays
	@rm -rf .venv .venv-clients build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
