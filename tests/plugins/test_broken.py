"""A broken plug-in ends in one sentence that names its package and its entry point."""

import re
from dataclasses import dataclass

import pytest

from tests.plugins.installed import opsearch
from tests.support.messages import naming

SOLVER = """
from opsearch.solvers import SOLVERS
class Part(SOLVERS["grid"]):
    name = "{name}"
"""
RANKER = """
class Part:
    nested, needs = True, frozenset()
    def rank(self, prompt, n):
        raise ValueError("no ranks today")
"""
COST = """
from opsearch.costs.kv import KVBytes
class Part(KVBytes):
    name, unit = "{name}", "things"
    def stock(self, n_visual, n_other):
        return {{}}["stock"]
"""
SPACE = """
class Part:
    options, ranks_inside = frozenset(), False
    @classmethod
    def from_settings(cls, settings):
        return cls()
    name, num_layers = "broken", 2
"""
BARE = "class Part:\n    name = 'broken'\n"
FEW = ["run", "--samples=1", "--heldout=0", "--space=tokens", "--n-v=.5", "--budget=80%"]


@dataclass(frozen=True)
class Case:
    """An entry point, the module behind it, a command, and words of the sentence it ends in."""

    kind: str
    name: str
    source: str
    command: tuple[str, ...]
    words: tuple[str, ...]


CASES = {
    "it raises when it is imported": Case(
        "solvers",
        "broken",
        "raise RuntimeError('no licence')",
        ("run", "--solver=broken"),
        ("RuntimeError: no licence", "uninstall"),
    ),
    "it is not where its entry point says": Case(
        "objectives",
        "absent",
        "",
        ("run", "--objective=absent"),
        ("AttributeError", "Part"),
    ),
    "it lacks methods": Case(
        "objectives", "broken", BARE, ("run", "--objective=broken"), ("lacks", "form", "make")
    ),
    "what it builds lacks methods": Case(
        "spaces", "broken", SPACE, ("run", "--space=broken"), ("lacks", "decode", "index_of")
    ),
    "it takes a start but has no field for it": Case(
        "solvers",
        "startless",
        SOLVER.format(name="startless") + "    takes_start = True",
        ("run", "--solver=startless"),
        ("takes a start", "`start`"),
    ),
    "it has another name than its entry point": Case(
        "costs",
        "misnamed",
        COST.format(name="other"),
        ("run", "--budget=50%misnamed"),
        ("'other'",),
    ),
    "a ranker raises in the middle of a run": Case(
        "rankers",
        "broken",
        RANKER,
        (*FEW, "--ranker=broken"),
        ("failed with ValueError: no ranks today", "authors", "--debug"),
    ),
    "a cost raises": Case(
        "costs",
        "broken",
        COST.format(name="broken"),
        (*FEW, "--budget=50%broken"),
        ("failed with KeyError", "'stock'", "authors"),
    ),
}
ALONE = {
    "a baseline that was not requested is broken": Case(
        "baselines", "broken", BARE, tuple(FEW), ("lacks", "makers")
    ),
    "it takes the name of a built-in part": Case(
        "solvers",
        "grid",
        SOLVER.format(name="grid"),
        ("list", "solvers"),
        ("'grid'", "another solver", "rename"),
    ),
    "it takes the name of a ranker of the other kind": Case(
        "decoder_rankers", "cls", RANKER, ("run", "--ranker=cls"), ("'cls'", "another ranker")
    ),
}
"""Cases that end every command, so that each has a package of its own."""


def installed(folder, cases):
    """Install a package with an entry point for each case, and a module behind each."""
    info = folder / "broken_parts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-parts\nVersion: 1.0\n")
    points = ""
    for number, case in enumerate(cases):
        (folder / f"broken{number}.py").write_text(case.source)
        points += f"[opsearch.{case.kind}]\n{case.name} = broken{number}:Part\n"
    (info / "entry_points.txt").write_text(points)
    return folder


def check(folder, cases):
    """Run the command of each case in one process, and check the sentence that it ends in."""
    site = installed(folder / "site", cases)
    out = {"run": ["--out", folder / "run"], "list": []}
    said = opsearch(site, *([*case.command, *out[case.command[0]]] for case in cases))
    for number, (case, each) in enumerate(zip(cases, said, strict=True)):
        point = f"opsearch.{case.kind}: broken{number}:Part"
        pattern = naming(repr(case.name), "broken-parts", point, *case.words)
        assert re.search(pattern, each.error), each.error


@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE)
def test_one_sentence_names_the_package_and_the_entry_point(case, tmp_path):
    check(tmp_path, [case])


def test_broken_parts_are_named_when_they_are_asked_for(tmp_path):
    check(tmp_path, list(CASES.values()))
