"""Settings of all tests: no network, one thread per process, no time limits on properties."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# A loaded machine must not fail a law; the same examples are drawn in every run.
settings.register_profile("opsearch", deadline=None, derandomize=True)
settings.load_profile("opsearch")
