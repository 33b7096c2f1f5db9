# `make run` and `make test` set up .venv from nothing; `make run ARGS="--budget 20%"` passes options.
PYTHON ?= python3
ARGS ?=
# A test that hangs, also in native code, is ended and named, with all that its process had to do: so
# that it hangs once, no other process takes its place.
PYTEST := pytest --timeout 600 --timeout-method thread
BIN := .venv/bin
LOWEST := .venv-lowest/bin
VISION := .venv-vision/bin
LMMS := .venv-lmms/bin

.PHONY: run test test-slow test-lowest test-vision test-lmms lint clean

run: .venv/ready
	$(BIN)/opsearch run $(ARGS)

# As many processes as there are cores; each takes whole files, which share what they prepare.
test: .venv/ready
	$(BIN)/python -m $(PYTEST) -n auto --maxprocesses 8 --max-worker-restart 0 --dist loadfile $(ARGS)

test-slow: .venv/ready
	$(BIN)/python -m $(PYTEST) -m slow $(ARGS)

# What touches transformers' insides, with the lowest release of it that is supported.
test-lowest: .venv-lowest/ready
	$(LOWEST)/python -m $(PYTEST) tests/models tests/measure $(ARGS)

# Processors of families that cannot do without torchvision.
test-vision: .venv-vision/ready
	$(VISION)/python -m $(PYTEST) -m requires_torchvision tests/commands/test_family_folders.py tests/test_examples.py tests/evaluation/reducers $(ARGS)

# Evaluation with lmms-eval, of which only what our tasks and wrappers import is installed, accelerate
# among it, and two quantisers; then the wrappers whose processors need torchvision.
test-lmms: .venv-lmms/ready .venv-vision/ready
	$(LMMS)/python -m $(PYTEST) -m "slow or not slow" tests/evaluation/lmms \
	  tests/models/test_quantised.py tests/models/test_dispatch.py tests/measure/test_dispatched_engine.py $(ARGS)
	PYTHONPATH="$$($(VISION)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  $(LMMS)/python -m $(PYTEST) -m requires_torchvision tests/evaluation/lmms $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-lowest .venv-vision .venv-lmms

# torch comes first and with its exact version, so that no later package decides which build it is.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# A second environment over the first: it sees the first one's packages behind its own.
# BARE comes without what it asks for: all of lmms-eval is 139 packages.
.venv-lowest/ready: PACKAGES = transformers==5.10.4
.venv-vision/ready: PACKAGES = "$$(grep '^torchvision==' constraints.txt)"
.venv-lmms/ready: PACKAGES = -c constraints.txt loguru datasets accelerate torchao compressed-tensors \
  tenacity evaluate sacrebleu pytz decord
.venv-lmms/ready: BARE = $$(grep -E '^(lmms_eval|qwen-vl-utils)==' constraints.txt)
.venv-%/ready: .venv/ready
	$(PYTHON) -m venv .venv-$*
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check $(PACKAGES)
	$(if $(BARE),.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(BARE))
	touch $@
