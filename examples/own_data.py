"""Qwen2.5-VL with your own questions: search once, then try other budgets without the model.

    python examples/own_data.py --data calib.jsonl --device cuda --dtype bfloat16

Qwen2.5-VL sees pictures in their own resolution: samples differ in their number of visual tokens,
and a policy says shares of them. `opsearch analyze transfer` on the run says what one "family" of
your questions loses with a policy for all. Needs torchvision, for Qwen's processor.
"""

import argparse
from pathlib import Path

from opsearch import RunConfig
from opsearch.evaluate import evaluate
from opsearch.run import run
from opsearch.solve import solve


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="Qwen/Qwen2.5-VL-7B-Instruct")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--ranker", default="divprune", help="it reads what enters the decoder")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--n-v", default="1,1/2,1/4,1/9")
    parser.add_argument("--budgets", nargs="+", default=["60%", "50%", "40%"], help="falling")
    parser.add_argument("--out", type=Path, default=Path("runs/qwen2.5-vl-7b"))
    given = parser.parse_args()

    config = RunConfig(
        model=given.model,
        data=given.data,
        device=given.device,
        dtype=given.dtype,
        ranker=given.ranker,
        samples=given.samples,
        n_v=tuple(given.n_v.split(",")),
        budget=(given.budgets[0],),
        heldout=0,
        out=given.out,
    )
    run(config)

    # No model from here on: what was measured within the first budget holds the optima below it.
    for budget in given.budgets[1:]:
        folder = given.out / budget.removesuffix("%")
        _, solution, _ = solve(given.out, budget=[budget], out=folder)
        print(budget, solution.policy.name, f"{solution.value:.3f} {solution.unit}")

    # Questions that were searched on are left out here, and counted.
    scores = evaluate(given.out, given.model, given.data, dtype=given.dtype, device=given.device)
    print(f"{scores.changed} of {len(scores.policy.texts)} answers changed; not judged: ", end="")
    print(f"{scores.dropped} questions that were searched on")


if __name__ == "__main__":
    main()
