"""Qwen2.5-VL on your own samples: search once, then solve for other budgets without the model.

    python examples/own_data.py --data calib.jsonl --device cuda --dtype bfloat16

Qwen2.5-VL reads images in their own resolution, so that samples differ in their number of visual
tokens; a policy holds shares of them. `opsearch analyze transfer` on the run gives the loss of each
"family" of your questions with one policy for all. Qwen's processor needs torchvision.
"""

import argparse
from pathlib import Path

import opsearch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="Qwen/Qwen2.5-VL-7B-Instruct")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--ranker", default="divprune", help="divprune reads the decoder's input")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--n-v", default="1,1/2,1/4,1/9")
    parser.add_argument("--budgets", nargs="+", default=["60%", "50%", "40%"], help="descending")
    parser.add_argument("--out", type=Path, default=Path("runs/qwen2.5-vl-7b"))
    given = parser.parse_args()

    config = opsearch.RunConfig(
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
    found = opsearch.run(config)

    # No model from here on: the measurements within the first budget cover all lower budgets.
    for budget in given.budgets[1:]:
        folder = given.out / budget.removesuffix("%")
        cheaper = opsearch.solve(given.out, budget=budget, out=folder)
        print(budget, cheaper.policy.name, f"{cheaper.value:.3f} {cheaper.solution.unit}")

    # Judge on the items that share no image and no group with those of the search.
    items = opsearch.load_items(given.data)
    unseen = opsearch.Run(given.out).unseen(items)
    model, processor = opsearch.load_model(given.model, dtype=given.dtype, device=given.device)
    scores = opsearch.evaluate(model, processor, unseen, found.policy)
    print(f"{scores.changed} of {len(unseen)} answers changed; not judged: ", end="")
    print(f"{len(items) - len(unseen)} items that were searched on, or share an image with those")


if __name__ == "__main__":
    main()
