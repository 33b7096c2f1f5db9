"""`opsearch analyze`: a tidy table, a figure and a description of stored results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from opsearch.errors import OpsearchError, UnknownNameError
from opsearch.evaluation.stored import stored_comparison
from opsearch.evaluation.stored_draws import has_draws, stored_draws
from opsearch.files import write_atomic, write_text
from opsearch.formatting import screen_repr
from opsearch.report.compared import comparison_page
from opsearch.report.drawn import draws_page
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.stored import stored_alone, stored_outcome, stored_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsearch.analysis.draws import DrawTables
    from opsearch.analysis.equal_cost import Comparison


@dataclass(frozen=True, eq=False)
class Analysis:
    """Result of an analysis.

    Attributes:
        tables: Tables by file name.
        figure: The figure, None if the text is the result itself, in Markdown.
        text: Description of the tables and the figure.
        page: The whole result as HTML, empty if there is no page.
    """

    tables: dict[str, pd.DataFrame]
    figure: Figure | None
    text: str
    page: str = ""

    __repr__ = screen_repr


def analyze(
    kind: str, folders: Sequence[Path], space: str | None = None, out: Path | None = None
) -> tuple[Analysis, list[Path]]:
    """Analyze runs and write the result.

    Args:
        kind: A key of `KINDS`.
        folders: Run folders.
        space: Space to analyze; None: the space of each run.
        out: Folder of the files; None: the first run folder.

    Returns:
        The analysis and the files it was written to.

    Raises:
        RunFolderError: A run lacks measurements; names the command that makes them.
        OpsearchError: The kind is unknown or does not take these arguments.
    """
    if kind not in KINDS:
        raise UnknownNameError("analysis", kind, list(KINDS))
    if len(folders) > 1 and not KINDS[kind].several:
        several = [name for name, each in KINDS.items() if each.several]
        raise OpsearchError(
            f"`opsearch analyze {kind}` takes one run, not {len(folders)}; give one run, or use a "
            f"kind that takes several: {', '.join(several)}"
        )
    if space is not None and not KINDS[kind].other_spaces:
        raise OpsearchError(
            f"--space {space} has no effect on `opsearch analyze {kind}`, whose results exist only "
            "for the space of the run; remove --space"
        )
    result = KINDS[kind].make(folders, space)
    target = out or folders[0]
    files = [_write_table(target / name, table) for name, table in result.tables.items()]
    if result.figure is None:
        files.append(write_text(target / f"{kind}.md", result.text + "\n"))
    else:
        figure = result.figure
        files.append(write_atomic(target / f"{kind}.svg", lambda file: figure.savefig(file)))
    if result.page:
        files.append(write_text(target / f"{kind}.html", result.page))
    return result, files


def _rank(folders: Sequence[Path], space: str | None) -> Analysis:
    """Compare proxies with the joint KL: rank correlation, and regret at every budget."""
    from opsearch.analysis import proxies, rank

    measured = stored_run(folders[0], space)
    policies, found = rank.policies(measured), rank.table(measured)
    tables = {"rank.csv": found, "policies.csv": policies}
    text = rank.describe(found)
    if not (graded := proxies.table(measured)).empty:
        tables["proxies.csv"] = graded
        text += " " + proxies.describe(graded)
    return Analysis(tables, rank.draw(policies, found), text)


def _curves(folders: Sequence[Path], space: str | None) -> Analysis:
    """Tabulate the KL of each parameter alone, by family."""
    from opsearch.analysis import curves

    found = curves.table(stored_run(folders[0], space))
    return Analysis({"curves.csv": found}, curves.draw(found), curves.describe(found))


def _operations(folders: Sequence[Path], space: str | None) -> Analysis:
    """Tabulate the KL of each operation alone, by layer and module."""
    from opsearch.analysis import operations

    found = operations.table(stored_alone(folders[0], space))
    return Analysis({"operations.csv": found}, operations.draw(found), operations.describe(found))


def _interactions(folders: Sequence[Path], space: str | None) -> Analysis:
    """Tabulate the interaction of each pair of parameters: joint KL minus both KLs alone."""
    from opsearch.analysis import interactions

    found = interactions.table(stored_run(folders[0], space))
    tables = {"interactions.csv": found}
    return Analysis(tables, interactions.draw(found), interactions.describe(found))


def _pareto(folders: Sequence[Path], space: str | None) -> Analysis:
    """Relate cost and Rel. Avg. of the methods that `opsearch compare` measured, by run."""
    from opsearch.analysis import equal_cost

    names = [folder.name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    found = dict(zip(labels, map(stored_comparison, folders), strict=True))
    tables = {label: equal_cost.table(comparison) for label, comparison in found.items()}
    families = {label: equal_cost.by_family(comparison) for label, comparison in found.items()}
    differences = {label: _differences(comparison) for label, comparison in found.items()}
    files = {"pareto.csv": tables, "families.csv": families, "differences.csv": differences}
    whole = {name: _concatenated(parts) for name, parts in files.items()}
    figure = equal_cost.draw(tables, found[labels[0]].unit)
    texts = {label: equal_cost.describe(table) for label, table in tables.items()}
    if len(found) == 1:
        text = texts[labels[0]]
        model = RunConfig.load(RunFolder(folders[0]).config).model
        parts = whole["pareto.csv"], whole["families.csv"], figure, text
        page = comparison_page(model, *parts, over_draws=_stored_tables(folders[0]))
    else:
        text, page = "\n".join(f"{label}: {line}" for label, line in texts.items()), ""
    kept = {name: table for name, table in whole.items() if not table.empty}
    return Analysis(kept, figure, text, page)


def _stored_tables(folder: Path) -> DrawTables | None:
    """Return the tables over the draws of a run, None if it has none."""
    from opsearch.analysis import draws

    return draws.tables(stored_draws(folder)) if has_draws(folder) else None


def _draws(folders: Sequence[Path], space: str | None) -> Analysis:
    """Relate the methods over the draws that `opsearch compare --draws` made."""
    from opsearch.analysis import draws

    found = draws.tables(stored_draws(folders[0]))
    figure, text = draws.draw(found), draws.describe(found)
    model = RunConfig.load(RunFolder(folders[0]).config).model
    files = {"draws.csv": found.methods, "each_draw.csv": found.draws}
    return Analysis(files, figure, text, draws_page(model, found, figure, text))


# Methods whose differences from other methods are tabulated.
_DIFFERENCES = {
    "dop joint": ("dop additive",),
    "depth joint": ("depth additive", "dop joint", "stages joint", "FastV like"),
    "stages joint": ("FastV like",),
    "stages refined": ("stages joint", "FastV like"),
    "operations verified": (
        "operations additive",
        "GSOP",
        "FastV like",
        "depth joint",
        "stages joint",
    ),
}


def _differences(comparison: Comparison) -> pd.DataFrame:
    """Return paired differences of searched methods from each other and from strong baselines."""
    from opsearch.analysis import equal_cost

    pairs = [(method, other) for method, others in _DIFFERENCES.items() for other in others]
    return pd.concat([equal_cost.differences(comparison, *pair) for pair in pairs])


def _concatenated(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return one table; if there are several runs, its first column `run` holds their labels."""
    if len(parts) == 1:
        (table,) = parts.values()
        return table
    return pd.concat(
        [table.assign(run=label)[["run", *table.columns]] for label, table in parts.items()],
        ignore_index=True,
    )


def _ablation(folders: Sequence[Path], space: str | None) -> Analysis:
    """Vary samples, interpolation, KL direction and run, and tabulate the chosen policies."""
    from opsearch.analysis import ablation

    found = ablation.table([stored_run(folder, space) for folder in folders])
    return Analysis({"ablation.csv": found}, ablation.draw(found), ablation.describe(found))


def _transfer(folders: Sequence[Path], space: str | None) -> Analysis:
    """Tabulate the loss of each policy on other families, models or data."""
    from opsearch.analysis import transfer

    found = transfer.table([stored_run(folder, space) for folder in folders])
    figure = transfer.draw(found)
    return Analysis({"transfer.csv": found}, figure, transfer.describe(found))


def _outcomes(folders: Sequence[Path], space: str | None) -> Analysis:
    """Compare the policies that several runs chose."""
    from opsearch.analysis import outcomes

    found = outcomes.table([stored_outcome(folder) for folder in folders])
    return Analysis({"outcomes.csv": found}, outcomes.draw(found), outcomes.describe(found))


def _adaptive(folders: Sequence[Path], space: str | None) -> Analysis:
    """Judge policy sets of any size, other mixes of questions, and the limit of the loss."""
    from opsearch.adaptive.measured import FILE_NAME, FOLDER, Measured
    from opsearch.analysis import adaptive_study

    (folder,) = folders
    measured = Measured.load(folder if (folder / FILE_NAME).exists() else folder / FOLDER)
    found = adaptive_study.tables(measured)
    figure = adaptive_study.draw(found["sets.csv"], found["kinds_left_out.csv"])
    return Analysis(found, figure, adaptive_study.describe(measured, found))


def _rivals(folders: Sequence[Path], space: str | None) -> Analysis:
    """Tabulate the loss of other search methods against the optimum, at equal evaluations."""
    from opsearch.commands import rivals

    found = rivals.table(stored_run(folders[0], space))
    return Analysis({"rivals.csv": found}, None, rivals.describe(found))


def _tables(folders: Sequence[Path], space: str | None) -> Analysis:
    """Format the results of `opsearch compare` as papers do."""
    from opsearch.analysis import paper_tables

    frames = [paper_tables.table(stored_comparison(folder), folder.name) for folder in folders]
    text = "\n\n".join(paper_tables.markdown(frame) for frame in frames)
    return Analysis({"tables.csv": pd.concat(frames, ignore_index=True)}, None, text)


@dataclass(frozen=True)
class AnalysisKind:
    """A kind of analysis.

    Attributes:
        make: Makes the analysis of run folders, in a space or in that of each run.
        several: True if it takes more than one run.
        other_spaces: True if it takes a space other than that of the run.
    """

    make: Callable[[Sequence[Path], str | None], Analysis]
    several: bool = False
    other_spaces: bool = True


KINDS = {
    "rank": AnalysisKind(_rank),
    "curves": AnalysisKind(_curves),
    "operations": AnalysisKind(_operations),
    "interactions": AnalysisKind(_interactions),
    "pareto": AnalysisKind(_pareto, several=True, other_spaces=False),
    "draws": AnalysisKind(_draws, other_spaces=False),
    "ablation": AnalysisKind(_ablation, several=True),
    "transfer": AnalysisKind(_transfer, several=True),
    "outcomes": AnalysisKind(_outcomes, several=True, other_spaces=False),
    "adaptive": AnalysisKind(_adaptive, other_spaces=False),
    "rivals": AnalysisKind(_rivals),
    "tables": AnalysisKind(_tables, several=True, other_spaces=False),
}


def _write_table(path: Path, table: pd.DataFrame) -> Path:
    return write_atomic(path, lambda file: table.to_csv(file, index=False))
