"""`opsearch serve` over HTTP: answers of transformers, also as a stream, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from urllib.error import URLError
from urllib.request import urlopen

import openai
import psutil
import pytest

from opsearch import RankerSpec, builders
from opsearch.data.demo.vocabulary import TOKENS as WORDS
from opsearch.data.embedded import embedded
from tests.serving.engine.engines import SETTINGS, TOKENS, question
from tests.support.served import greedy

POLICY = builders.dop(12, 6, 6, "3/5", RankerSpec("divprune"), kv="leaves")
ITEMS = embedded("held-out", 6)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    """A server of the embedded model under the policy, and its address."""
    POLICY.save_pretrained(tmp_path / "policy")
    port = free_port()
    options = {"host": "127.0.0.1", "port": port, **SETTINGS}
    listed = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "opsearch", "serve", tmp_path / "policy", "--", *listed],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_it_answers(process, f"http://127.0.0.1:{port}/health")
            yield process, f"http://127.0.0.1:{port}/v1"
        except BaseException:
            print((tmp_path / "log").read_text())
            raise
        finally:
            for each in [*children(process), process]:
                each.kill()
            process.wait()


def wait_until_it_answers(process, address):
    for _ in range(300):
        assert process.poll() is None
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(1)
    raise AssertionError("the server does not start")


def children(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def request(item):
    """A question about a picture in the request itself."""
    buffer = BytesIO()
    item.images[0].save(buffer, "PNG")
    url = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": item.question},
    ]
    return {
        "model": "demo",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "logprobs": True,
        "extra_body": {"min_tokens": TOKENS},
    }


def words(content):
    return [each.token.strip() for each in content]


def memory(process):
    """Bytes that the processes of a server have for themselves."""
    own = [process.pid, *(child.pid for child in children(process))]
    return sum(psutil.Process(pid).memory_full_info().uss for pid in own)


def test_a_thousand_requests_lose_nothing_and_memory_stays_flat(server):
    process, address = server
    items = embedded("held-out", 40)
    wanted = [
        [WORDS[token] for token, _ in answer]
        for answer in greedy(POLICY, [question(item, *item.images) for item in items], TOKENS)
    ]
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)

    def right(number):
        asked = request(items[number % len(items)])
        (choice,) = client.chat.completions.create(**asked).choices
        return words(choice.logprobs.content) == wanted[number % len(items)]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(right, range(200)))  # caches are filled
        before = memory(process)
        assert all(pool.map(right, range(200, 1000)))
    assert memory(process) < 1.02 * before
    client.close()


def test_a_server_answers_as_transformers_does_and_stops_at_ctrl_c(server):
    process, address = server
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    wanted = greedy(POLICY, [question(item, *item.images) for item in ITEMS], TOKENS)
    for item, expected in zip(ITEMS, wanted, strict=True):
        (choice,) = client.chat.completions.create(**request(item)).choices
        parts = list(client.chat.completions.create(**request(item), stream=True))
        streamed = [
            each
            for part in parts
            for choice in part.choices
            if choice.logprobs is not None
            for each in choice.logprobs.content
        ]
        for content in (choice.logprobs.content, streamed):
            assert words(content) == [WORDS[token] for token, _ in expected]
            assert [each.logprob for each in content] == pytest.approx(
                [logprob for _, logprob in expected], abs=2e-4
            )
        assert len(parts) > TOKENS // 2
    long = replace(ITEMS[0], question="red " * 155)
    with pytest.raises(openai.BadRequestError, match="the model has positions for 256"):
        client.chat.completions.create(**request(long))
    assert [each.id for each in client.models.list()] == ["demo"]
    client.close()
    started = children(process)
    assert started
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
