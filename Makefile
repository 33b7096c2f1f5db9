# `make run` and `make test` set up .venv from nothing; `make run ARGS="--budget 20%"` passes options.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.PHONY: run test test-slow lint clean

run: .venv/ready
	$(BIN)/opsearch run $(ARGS)

test: .venv/ready
	$(BIN)/python -m pytest $(ARGS)

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv

# torch comes first and with its exact version, so that no later package decides which build it is.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
