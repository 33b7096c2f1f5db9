"""Model card: the README.md of an exported folder, with the numbers of its training."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from training.evaluate import Score, mean_accuracy
from training.heads import COLOR_AFTER, KIND_AFTER, LAST, NEIGHBORS_AFTER, PLACES_AFTER
from training.options import Options, TrainingCost
from training.redundancy import OPERATIONS, SHARES


def write_card(
    folder: Path,
    options: Options,
    cost: TrainingCost,
    scores: dict[str, Score],
    study: dict[str, Any],
) -> None:
    """Write README.md into an exported folder; `study` is the result of `redundancy.study`."""
    template = Path(__file__).with_name("card_template.md").read_text(encoding="utf-8")
    count = round(sum(score.items for score in scores.values()))
    text = template.format(
        items=f"{count:,}",
        each=count // len(scores),
        scores="\n".join(_row(name, score) for name, score in scores.items()),
        mean=f"{mean_accuracy(scores):.3f}".removeprefix("0"),
        ending=_ending(scores),
        error=_share((0.95 * 0.05 * len(scores) / count) ** 0.5),
        origin=_origin(options),
        command=_command(options),
        course=_course(options),
        pictures=f"{cost.pictures:,}",
        questions=f"{cost.questions:,}",
        steps=f"{cost.steps:,}",
        cost=_cost(options, cost),
        seed=options.seed,
        last=LAST,
        studied=study["items"],
        depths=_depths(study),
        needed=_needed(study),
        shares=", ".join(f"{float(100 * Fraction(share)):.0f}" for share in SHARES),
        by_cls=_by_ranker(study, "cls"),
        by_uniform=_by_ranker(study, "uniform"),
        heads="\n".join(f"| {layer} | {what} |" for layer, what in sorted(_heads())),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _row(name: str, score: Score) -> str:
    return f"| {name} | {score.example} | {_share(score.accuracy)} | {_share(score.majority)} |"


def _depths(study: dict[str, Any]) -> str:
    """Return a table: accuracy per operation, by the layer from which it is left out."""
    layers = range(len(study["q"]["accuracy"]["mean"]) - 1)
    rows = []
    for operation in OPERATIONS:
        accuracy = study[operation]["accuracy"]["mean"]
        cells = [f"{100 * value / accuracy[-1]:.0f}" for value in accuracy[:-1]]
        rows.append(f"| {operation} | {' | '.join(cells)} |")
    head = f"| from layer | {' | '.join(map(str, layers))} |"
    return "\n".join([head, "|---" * (len(layers) + 1) + "|", *rows])


def _needed(study: dict[str, Any]) -> str:
    """Return a table: the number of layers that each family needs, per operation."""
    names = [name for name in study["q"]["depth"] if name != "mean"]
    rows = [
        f"| {operation} | {' | '.join(str(study[operation]['depth'][name]) for name in names)} |"
        for operation in OPERATIONS
    ]
    return "\n".join([f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows])


def _by_ranker(study: dict[str, Any], ranker: str) -> str:
    scores = study[f"tokens by {ranker}"]
    return ", ".join(_share(scores[share]["mean"]) for share in SHARES)


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _ending(scores: dict[str, Score]) -> str:
    ended = sum(score.ended * score.items for score in scores.values())
    total = sum(score.items for score in scores.values())
    return f"{round(ended):,} of {total:,} answers ended with `<eos>` after one word."


def _origin(options: Options) -> str:
    if options.start is None:
        return "Trained from random weights on"
    return "Continued from an earlier checkpoint of the same architecture and tasks, on"


def _command(options: Options) -> str:
    schedule = options.schedule
    words = [f"python -m training --out FOLDER --seed {options.seed}"]
    words += [f"--steps {schedule.steps} --vision {schedule.vision} --rate {schedule.rate}"]
    words += [f"--decay {schedule.decay} --pictures {options.pictures}"]
    words += [f"--auxiliary {options.auxiliary} --processes {options.processes}"]
    words += ["--start EARLIER"] if options.start else []
    return " \\\n    ".join(words)


def _course(options: Options) -> str:
    vision = options.schedule.vision
    return f"The first {vision:.0%} of the steps had no questions. " if vision else ""


def _cost(options: Options, cost: TrainingCost) -> str:
    if options.device == "cpu":
        return f"{cost.seconds / 60:.0f} CPU minutes"
    return f"{cost.seconds / 60:.0f} minutes with one GPU"


def _heads() -> list[tuple[int, str]]:
    kinds = {
        "ShapesScene": "shapes",
        "ChartScene": "bar values",
        "TextScene": "letters",
        "DigitsScene": "digits",
    }
    return [
        (COLOR_AFTER, "colours"),
        *((after, kinds[scene.__name__]) for scene, after in KIND_AFTER.items()),
        (PLACES_AFTER, "at the question's words: positions of the things that they refer to"),
        (NEIGHBORS_AFTER, "colours of the neighbouring shapes"),
    ]
