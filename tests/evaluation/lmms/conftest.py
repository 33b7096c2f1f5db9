"""These tests need lmms-eval: `make test-lmms` has it, the default suite leaves them out."""

import importlib.util

import pytest

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("lmms_eval") is None else []


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Arrow files of the made data sets go where pytest cleans up."""
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(tmp_path_factory.mktemp("arrow")))
