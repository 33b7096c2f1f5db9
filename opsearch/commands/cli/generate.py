"""`opsearch generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import (
    Debug,
    Json,
    PolicyPath,
    Quiet,
    RunAttention,
    RunDevice,
    RunDtype,
    RunModel,
)
from opsearch.commands.cli.output import (
    err,
    give,
    out,
)
from opsearch.formatting import format_amount
from opsearch.models.answer_length import Length
from opsearch.report.cut_answers import describe_cut

if TYPE_CHECKING:
    from opsearch.evaluation.generate import Trial


def generate(
    policy: PolicyPath,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="Image file, placed before the prompt. Repeatable."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Question about the images; default for the embedded model without --image: a "
            "sample of the embedded tasks."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Maximum number of tokens per answer.")
    ] = 64,
    model: RunModel = None,
    dtype: RunDtype = None,
    device: RunDevice = None,
    attention: RunAttention = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a prompt with the original and with a policy, and show the costs of both."""
    say_loading()
    from opsearch.commands.cli.as_json import trial_json
    from opsearch.evaluation.generate import generate as answer_prompt

    loaded_as = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    trial = answer_prompt(policy, image or (), prompt, max_new_tokens, err, **loaded_as)
    give(lambda: _print(trial), lambda: trial_json(trial))


def _print(trial: Trial) -> None:
    sample, before, after = trial.sample, trial.original, trial.policy
    n_visual, n_other = sample.shape
    out.print(trial.applied.name, style="bold", soft_wrap=True)
    lines = [f"policy {trial.of_set} of the set"] if trial.of_set else []
    lines.append(f"prompt    {sample.item.question}")
    if sample.item.answers:
        lines.append(f"expected  {' or '.join(sample.item.answers)}")
    lines += [f"original  {before.text}", f"policy    {after.text}"]
    q, kv, mlp = trial.applied.executed(trial.read.n_visual).mean(axis=0)
    smaller = ""
    if trial.read.n_visual != n_visual:
        smaller = f", and {trial.read.n_visual} visual ones with the policy's smaller images"
    flops, cache = (
        f"{format_amount(new, unit)} of {format_amount(old, unit)}"
        for old, new, unit in (
            (before.flops, after.flops, "FLOPs"),
            (before.kv_bytes, after.kv_bytes, "B"),
        )
    )
    lines += [
        f"The prompt has {n_visual} visual and {n_other} text tokens{smaller}. Visual tokens "
        f"processed per layer, on average: {q:.1f} as queries (q), {kv:.1f} as keys and values "
        f"(kv), {mlp:.1f} in the MLP (mlp).",
        f"Prefill with the policy: {100 * after.flops / before.flops:.4g}% of the original's FLOPs "
        f"({flops}) and {cache} of KV cache.",
        f"New tokens: {before.new_tokens} by the original, {after.new_tokens} by the policy.",
    ]
    answers = {"the original": before, "the policy": after}
    lengths = {name: [Length(each.new_tokens, each.cut)] for name, each in answers.items()}
    if cut := describe_cut(lengths, "--max-new-tokens"):
        lines.append(f"{cut}.")
    for line in lines:
        out.print(line, soft_wrap=True)
