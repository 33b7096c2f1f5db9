"""A hub that does not answer ends a command at once; what its cache holds is loaded without it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

import opsearch.models.hub as hub_module
from opsearch.models.hub import check_source, hub_failure
from opsearch.models.loading import load_config
from tests.support.families import FAMILIES
from tests.support.families.folder import save

LOADED = """
import sys, time
from opsearch.errors import ModelError
from opsearch.models.loading import load_config, load_processor, load_weights
started = time.monotonic()
try:
    for load in (load_config, load_processor, load_weights):
        load("someorg/some-model")
except ModelError as error:
    print(error)
print(time.monotonic() - started)
"""


@pytest.fixture(params=["closed", "silent"])
def hub(request):
    """The socket of a hub that refuses connections, or takes them and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listening.listen()
        yield listening


@pytest.fixture
def endpoint(hub):
    return f"http://127.0.0.1:{hub.getsockname()[1]}"


def connections(hub):
    """Return how many connections a hub was asked for."""
    if not hub.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return 0
    hub.setblocking(False)
    count = 0
    try:
        while True:
            hub.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


def started(arguments, endpoint, cache, *, offline=False):
    variables = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache)}
    variables["HF_HUB_OFFLINE"] = str(offline)
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, env=variables, capture_output=True, text=True, timeout=120)


def test_a_run_ends_with_one_sentence_before_libraries_are_loaded(endpoint, tmp_path):
    begun = time.monotonic()
    given = ["--model=someorg/some-model", f"--out={tmp_path / 'run'}"]
    done = started(["-m", "opsearch", "run", *given], endpoint, tmp_path)
    assert time.monotonic() - begun < 30  # a loaded machine starts slowly; retries took 31 s
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for named in ("'someorg/some-model'", endpoint.removeprefix("http://"), "HF_ENDPOINT"):
        assert named in line


def test_it_takes_few_seconds_and_is_asked_once(hub, endpoint, tmp_path):
    done = started(["-c", LOADED], endpoint, tmp_path)
    said, seconds = done.stdout.splitlines()
    assert "someorg/some-model" in said
    assert float(seconds) < 15  # retries took minutes
    assert done.stderr.count("Retrying") == 0
    assert connections(hub) <= 1


def test_it_is_asked_again_after_a_while(monkeypatch):
    """A network that comes back is used in the same process."""
    answers = ["no route", None]
    monkeypatch.setattr(hub_module, "_hub_failure", lambda name: answers.pop(0))
    monkeypatch.setattr(hub_module, "_asked", {})
    assert [hub_failure("someorg/some-model") for _ in range(3)] == ["no route"] * 3
    monkeypatch.setattr(hub_module, "_VALID", 0.0)
    assert hub_failure("someorg/some-model") is None


@pytest.mark.parametrize("offline", [False, True], ids=["unreachable", "offline"])
def test_a_checkpoint_that_is_cached_in_part_is_not_called_damaged(endpoint, tmp_path, offline):
    snapshot = tmp_path / "models--someorg--some-model" / "snapshots" / ("0" * 40)
    save(FAMILIES["llava"], tmp_path / "made")
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    shutil.copy(tmp_path / "made" / "config.json", snapshot)
    done = started(["-c", LOADED], endpoint, tmp_path, offline=offline)
    said = done.stdout.splitlines()[0]
    assert "only a part" in said
    assert ("HF_HUB_OFFLINE" if offline else endpoint.removeprefix("http://")) in said
    assert str(snapshot) not in said


def test_the_embedded_model_is_never_a_file_of_this_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text("mine")
    check_source("model", "demo")
    assert load_config("demo").model_type == "llava"


def test_what_is_cached_is_loaded_without_the_hub(endpoint, tmp_path):
    cache = tmp_path / "models--someorg--some-model"
    save(FAMILIES["llava"], tmp_path / "made")
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tmp_path / "made", cache / "snapshots" / ("0" * 40))
    done = started(["-c", LOADED], endpoint, tmp_path)
    (seconds,) = done.stdout.splitlines()
    assert float(seconds) < 20
    assert done.stderr.count("Retrying") == 0


def test_a_damaged_file_of_the_cache_is_named(endpoint, tmp_path):
    snapshot = tmp_path / "models--someorg--some-model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps([1]))
    done = started(["-c", LOADED], endpoint, tmp_path)
    assert str(snapshot / "config.json") in done.stdout
