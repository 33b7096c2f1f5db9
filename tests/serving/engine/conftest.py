"""Settings of vLLM for tests: one thread, a small cache, and the engine in this process.

Tests of this folder are collected where vLLM is installed.
"""

import os
import warnings

import pytest

os.environ.update(
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="ERROR",
    VLLM_NO_USAGE_STATS="1",
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its imports
    try:
        from vllm import LLM  # noqa: F401
    except ModuleNotFoundError:
        collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items):
    """Ignore warnings in tests of this folder, because those of vLLM are not ours."""
    for item in items:
        if item.path.parent.name == "engine":
            item.add_marker(pytest.mark.filterwarnings("ignore"))
