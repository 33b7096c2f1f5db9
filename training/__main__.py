"""Command line of the training: `python -m training --out FOLDER`."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from training.card import write_card
from training.evaluate import as_json, mean_accuracy, measure
from training.options import Options, spent
from training.processes import run_in_group
from training.redundancy import study, write_study
from training.schedule import TrainingSchedule
from training.trainer import train


def main() -> None:
    """Train, export and measure, or resume an earlier call."""
    args = _arguments()
    options = Options(
        out=args.out,
        start=args.start,
        seed=args.seed,
        schedule=TrainingSchedule(
            args.steps, 0 if args.start else args.vision, args.rate, args.decay
        ),
        pictures=args.pictures,
        auxiliary=args.auxiliary,
        compiled=not args.eager,
        device=args.device,
        workers=args.workers,
        processes=args.processes,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run_in_group(args.processes, partial(train, options))
    folder = args.out / "model"
    print(f"measuring {folder} on {args.items} questions of the test split")
    scores = measure(folder, args.items)
    (args.out / "scores.json").write_text(json.dumps(as_json(scores), indent=2) + "\n")
    print(f"measuring what pruning costs on {args.studied} questions of the held-out split")
    redundancy = study(folder, args.studied)
    write_study(args.out / "redundancy.json", redundancy)
    write_card(folder, options, spent(options), scores, redundancy)
    for name, score in scores.items():
        print(f"{name:12} {score.accuracy:.3f}  (majority {score.majority:.2f})")
    print(f"{'mean':12} {mean_accuracy(scores):.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of the run; the same one resumes it")
    add("--start", type=Path, help="folder of an exported checkpoint to continue from")
    add("--steps", type=int, default=3740, help="length of the run")
    add("--seed", type=int, default=1, help="of weights and pictures")
    add("--pictures", type=int, default=32, help="pictures in a step")
    add("--processes", type=int, default=1, help="processes of one thread, one for each core")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that draw pictures ahead, for a GPU")
    add("--vision", type=float, default=0.24, help="share of steps without questions")
    add("--rate", type=float, default=0.5, help="factor on the learning rates with questions")
    add("--decay", type=float, default=0.24, help="share of steps in which the rates fall to 0")
    add("--auxiliary", type=float, default=1.0, help="weight of the heads' losses")
    add("--items", type=int, default=1500, help="questions to measure the result on")
    add("--studied", type=int, default=450, help="questions to measure what pruning costs on")
    add("--eager", action="store_true", help="do not compile the layers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
