"""vLLM's engine of a model, with or without a policy, in processes of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import PATH, OpsearchError, shortened
from opsearch.serving.served_policy import KEY

# Set before vLLM is imported, unless the user has set them. A process that has computed with
# several threads cannot be forked.
_ENVIRONMENT = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
# No request finds anything of an earlier one, its image included.
_UNCACHED = ("--no-enable-prefix-caching", "--mm-processor-cache-gb=0")
_ALL_LOGPROBS = "--max-logprobs=-1"


@dataclass(frozen=True, eq=False)
class Question:
    """A prompt with images.

    Attributes:
        tokens: Token ids, with one placeholder for each image.
        images: The images.
    """

    tokens: list[int]
    images: list[Any]


@dataclass(frozen=True)
class Answer:
    """An answer and its times, in seconds from when it was asked for.

    Attributes:
        tokens: Token ids.
        logprobs: Log-probabilities of the whole vocabulary at the first token, float64[V]; None if
            they were not asked for.
        first: Time to the first token.
        last: Time to the last token.
    """

    tokens: list[int]
    logprobs: NDArray[np.float64] | None
    first: float
    last: float

    @property
    def per_token(self) -> float | None:
        """Time of each token after the first, None if there is none."""
        return (self.last - self.first) / (len(self.tokens) - 1) if len(self.tokens) > 1 else None


class Engine:
    """An engine. It is made and used inside one event loop.

    Args:
        model: Name or folder of the model.
        policy: Folder or file of the policy; None: no policy.
        options: Further options of vLLM's server.

    Raises:
        OpsearchError: vLLM does not start, or refuses the policy.
    """

    def __init__(self, model: str, policy: Path | None, options: Sequence[str]) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
        given = parser.parse_args(["--model", model, *_UNCACHED, _ALL_LOGPROBS, *options])
        arguments = AsyncEngineArgs.from_cli_args(given)
        self._peak = _Peak()
        runner, loggers = dict[str, str](), [self._peak.logger]
        if policy is not None:
            arguments.hf_overrides = {KEY: str(policy.resolve())}
            runner = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
        with _environment(runner):
            try:
                self._engine = AsyncLLM.from_engine_args(arguments, stat_loggers=loggers)
            except (RuntimeError, ValueError) as error:
                reason = shortened(error, PATH)
                raise OpsearchError(
                    f"vLLM does not start ({reason}); its log is above, and options for it follow "
                    "--, e.g. -- --max-model-len 4096"
                ) from error
        self._name = map(str, count()).__next__

    async def answer(
        self, question: Question, tokens: int, exactly: bool = True, logprobs: bool = False
    ) -> Answer:
        """Answer a question greedily.

        Args:
            question: The question.
            tokens: Largest number of tokens of the answer.
            exactly: True for that number of tokens, whatever the model would end with.
            logprobs: True for the log-probabilities at the first token.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        settings = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            min_tokens=tokens if exactly else 0,
            ignore_eos=exactly,
            logprobs=-1 if logprobs else None,
            output_kind=RequestOutputKind.DELTA,
            detokenize=False,
        )
        images = {"multi_modal_data": {"image": question.images}} if question.images else {}
        prompt = {"prompt_token_ids": question.tokens, **images}
        found: list[int] = []
        distribution: NDArray[np.float64] | None = None
        first, start = 0.0, perf_counter()
        stream: AsyncIterator[Any] = self._engine.generate(prompt, settings, self._name())
        async for output in stream:
            first = first or perf_counter() - start
            (part,) = output.outputs
            found += part.token_ids
            if part.logprobs and distribution is None:
                of = part.logprobs[0]
                distribution = np.array([of[token].logprob for token in range(len(of))])
        return Answer(found, distribution, first, perf_counter() - start)

    def peak_usage(self) -> float:
        """Return the largest share of the KV cache in use since the last call."""
        return self._peak.taken()

    def close(self) -> None:
        """End its processes."""
        self._engine.shutdown()
        del self._engine  # else it is shut down again when Python ends


class _Peak:
    """Largest share of the KV cache that an engine reported."""

    def __init__(self) -> None:
        self._share = 0.0

    def taken(self) -> float:
        """Return the share, and begin anew."""
        share, self._share = self._share, 0.0
        return share

    def logger(self, vllm_config: Any, engine_index: int = 0) -> Any:
        """Return one of vLLM's loggers of statistics."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        peak = self

        class Logger(StatLoggerBase):
            def __init__(self) -> None:
                pass

            def record(self, scheduler_stats: Any, *others: Any, **named: Any) -> None:
                if scheduler_stats is not None:
                    peak._share = max(peak._share, scheduler_stats.kv_cache_usage)

            def log_engine_initialized(self) -> None:
                pass

        return Logger()


def set_up_environment() -> None:
    """Set the variables that vLLM reads when it is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment inside the block, in which processes start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
