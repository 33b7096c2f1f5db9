"""Links, headings and commands of the documentation exist."""

import doctest
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
import typer

import opsearch
import opsearch.problem
from opsearch import registry
from opsearch.commands.analyze import KINDS
from opsearch.commands.cli import app
from opsearch.rankers import RANKERS
from opsearch.registry import KINDS as KIND_CONTRACTS

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("opsearch/data/demo/model/*.md")]
PAGES = [pytest.param(file, id=str(file.relative_to(ROOT))) for file in sorted(FILES)]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:time )?opsearch [^`]+)`")
COMMAND = re.compile(r"^(?:\$ |time )*opsearch (.*)$", re.MULTILINE)


def anchors(page):
    """The headings of a page as GitHub names them."""
    text = FENCE.sub("", page.read_text())
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def commands(page):
    """Every `opsearch ...` of a page, in blocks and in sentences, as arguments."""
    text = page.read_text()
    blocks = FENCE.findall(text)
    lines = [line for block in blocks for line in COMMAND.findall(block.replace("\\\n", " "))]
    for line in INLINE.findall(FENCE.sub("", text)):
        lines += COMMAND.findall(" ".join(line.split()))
    return [shlex.split(line.replace("\\|", "|"), comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{link} of {page.name}"
        if anchor:
            assert anchor in anchors(target), f"{link} of {page.name}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page):
    group = typer.main.get_command(app)
    for arguments in commands(page):
        if arguments[0].startswith("-"):
            own = {option for parameter in group.params for option in parameter.opts}
            assert arguments[0] in own | {"--help"}, arguments
            continue
        name, *rest = arguments
        assert name in group.commands, f"opsearch {' '.join(arguments)}"
        if name == "analyze" and rest:
            assert set(rest[0].split("|")) <= set(KINDS)
        # A sentence may name a command, or a kind of analysis, without what it works on.
        if len(rest) > (name == "analyze"):
            group.commands[name].make_context(name, rest)


def test_pages_have_commands_and_the_parser_is_no_push_over():
    found = [c for page in FILES for c in commands(page)]
    assert ["solve", "RUN", "--budget", "20%"] in found
    assert len(found) > 40
    group = typer.main.get_command(app)
    with pytest.raises(Exception, match="--bugdet"):
        group.commands["run"].make_context("run", ["--bugdet", "3%"])


def test_readme_leads_to_every_page():
    linked = set(LINK.findall((ROOT / "README.md").read_text()))
    pages = {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")}
    assert pages <= linked


def test_the_api_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", defaultdict(dict))
    found = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False)
    assert found.attempted > 20
    assert not found.failed


def test_the_api_page_describes_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    table = page[: page.index("## load_model")]
    assert [n for n in opsearch.__all__ if n != "__version__" and f"`{n}`" not in table] == []


PAGES_OF_PARTS = [ROOT / "docs" / name for name in ("api.md", "architecture.md")]
PACKAGE = ROOT / "tests" / "plugins" / "package" / "acme_opsearch"
SCRIPTS = [*(ROOT / "examples").glob("*.py"), *PACKAGE.glob("*.py")]
CARD = ROOT / "opsearch" / "data" / "demo" / "model" / "README.md"
SHOWN = [*SCRIPTS, ROOT / "README.md", *PAGES_OF_PARTS, CARD]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_imported(path):
    """Examples and pages import from `opsearch`, authors of parts from two rooms more."""
    blocks = [path.read_text()] if path.suffix == ".py" else PYTHON.findall(path.read_text())
    for block in blocks:
        code = "\n".join(
            line.removeprefix(">>> ").removeprefix("... ") for line in block.split("\n")
        )
        modules = re.findall(r"^(?:from|import) (opsearch[\w.]*)", code, re.MULTILINE)
        assert set(modules) <= {"opsearch", "opsearch.problem", "opsearch.testing"}
        for names in re.findall(
            r"^from opsearch import (?:\(([^)]*)\)|([^\n]*))", code, re.MULTILINE
        ):
            imported = {name.strip() for name in "".join(names).split(",") if name.strip()}
            assert imported <= set(opsearch.__all__)
        assert set(re.findall(r"\bopsearch\.([A-Za-z]\w*)\(", code)) <= set(opsearch.__all__)


def test_every_name_for_authors_of_parts_is_there():
    for name in opsearch.problem.__all__:
        assert getattr(opsearch.problem, name) is not None


def test_the_minimal_parts_run(monkeypatch):
    parts = {}
    for block in PYTHON.findall((ROOT / "docs" / "architecture.md").read_text()):
        exec(block, parts)
    solver, space, cost = (parts[name] for name in ("First", "Halves", "KeptRows"))
    objective, ranker, baseline = (parts[name] for name in ("Worst", "Longest", "SECOND_HALF"))
    given = {
        "solvers": solver,
        "objectives": objective,
        "spaces": space,
        "costs": cost,
        "rankers": ranker,
        "baselines": baseline,
    }
    for kind, part in given.items():
        assert [m for m in KIND_CONTRACTS[kind].members if not hasattr(part, m)] == []
    model, processor = opsearch.load_model("demo")
    items = opsearch.load_items("demo", samples=2)
    halves = space(12, opsearch.RankerSpec("uniform"))
    found = opsearch.search(
        model,
        processor,
        items,
        budget="60%",
        space=halves,
        objective=objective(),
        solver=solver(),
        progress=False,
    )
    kl = opsearch.measure_kl(model, processor, items, [found.policy])
    assert found.policy.canonical(64) == halves.decode([0]).canonical(64)
    assert found.value == pytest.approx(kl.max(), abs=1e-6)
    counts = found.policy.resolve(64)
    assert cost(12).of(counts, 64, 10) == counts.sum() < cost(12).stock(64, 10)
    monkeypatch.setitem(RANKERS, "longest", ranker)
    (make,) = baseline.makers
    policies = [make(12, share, opsearch.RankerSpec("longest")) for share in ("1/4", "1")]
    pruned, whole = opsearch.measure_kl(model, processor, items, policies)
    assert (pruned > 0).all()
    assert (whole == 0).all()
