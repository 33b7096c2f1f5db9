"""`opsearch generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsearch.commands.cli.options import (
    Debug,
    PolicyPath,
    RunAttention,
    RunDevice,
    RunDtype,
    RunModel,
    err,
    out,
)
from opsearch.formatting import format_amount

if TYPE_CHECKING:
    from opsearch.evaluation.generate import Trial


def generate(
    policy: PolicyPath,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture. Repeatable; all stand before the prompt.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What to ask; default, for the embedded model without --image: an item of the "
            "embedded tasks."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each answer, at most.")] = 64,
    model: RunModel = None,
    dtype: RunDtype = None,
    device: RunDevice = None,
    attention: RunAttention = None,
    debug: Debug = False,
) -> None:
    """Try a policy: the original's answer to a prompt, the policy's, and what the policy took."""
    from opsearch.evaluation.generate import generate as answer_prompt

    place = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    _print(answer_prompt(policy, image or (), prompt, max_new_tokens, err, **place))


def _print(trial: Trial) -> None:
    sample, before, after = trial.sample, trial.original, trial.policy
    n_visual, n_other = sample.shape
    out.print(trial.applied.name, style="bold", soft_wrap=True)
    lines = [f"prompt    {sample.item.question}"]
    if sample.item.answers:
        lines.append(f"right     {' or '.join(sample.item.answers)}")
    lines += [f"original  {before.text}", f"policy    {after.text}"]
    q, kv, mlp = trial.applied.executed(n_visual).mean(axis=0)
    flops, cache = (
        f"{format_amount(new, unit)} of {format_amount(old, unit)}"
        for old, new, unit in (
            (before.flops, after.flops, "FLOPs"),
            (before.kv_bytes, after.kv_bytes, "B"),
        )
    )
    lines += [
        f"The prompt has {n_visual} visual and {n_other} other tokens; of the visual ones a layer "
        f"takes {q:.1f} to ask (q), {kv:.1f} to be read (kv) and {mlp:.1f} in its MLP, on average.",
        f"Its prefill takes {100 * after.flops / before.flops:.4g}% of stock ({flops}) and leaves "
        f"{cache} of KV cache.",
        f"New tokens: {before.new_tokens} by the original, {after.new_tokens} by the policy.",
    ]
    for line in lines:
        out.print(line, soft_wrap=True)
