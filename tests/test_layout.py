"""The house: links, packages, layers of imports, as CONTRIBUTING.md describes them."""

import ast
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("analysis", "objectives", "solvers")

# Floors from the ground up; a module stands on that of its first name below opsearch.
FLOORS = (
    [
        "errors",
        "amounts",
        "registry",
        "files",
        "policy",
        "turns",
        "upload",
        "builders",
        "reranked",
        "policy_file",
        "rankers",
        "tasks",
        "demo",
    ],
    [
        "runtime",
        "costs",
        "space",
        "stage_space",
        "layer_space",
        "recipe_space",
        "spaces",
        "layer_costs",
    ],
    [
        "progress",
        "measure",
        "problem",
        "infeasible",
        "solution",
        "budget",
        "answers",
        "run_folder",
        "latency_file",
        "reducers",
    ],
    [
        "config",
        "objectives",
        "solvers",
        "analysis",
        "baselines",
        "as_published",
        "example_problems",
        "testing",
        "testing_bounded",
        "testing_checks",
        "testing_layers",
    ],
    ["verify", "summed_front"],
    [
        "problem_setup",
        "planned",
        "policy_settings",
        "starts",
        "search",
        "results",
        "bench",
        "environment",
        "verdict",
    ],
    ["prepare", "stored_run", "rivals", "export"],
    ["report"],
    [
        "solve",
        "run_store",
        "comparison",
        "compared_rankers",
        "contenders",
        "measured_baselines",
        "reduced",
        "unspent",
        "evaluate",
        "generate",
        "dry_run",
    ],
    ["walked_front"],
    ["front"],
    ["run", "compare", "searched_front", "lmms"],
    ["stored_comparison", "stored_outcome", "analyze"],
    ["printing", "compared_table", "parts", "commands", "cli", "__main__"],
)
# Imports inside a method that run up or in a circle, so that a Policy can be applied and saved, and
# knows its rankers.
EXCEPTIONS = {
    ("opsearch.policy.policy", "opsearch.models.pruned.apply"),
    ("opsearch.policy.policy", "opsearch.policy.file"),
    ("opsearch.policy.policy", "opsearch.policy.schedule"),
}


def source_files():
    """Every module of the package by its import name, found in the real folders."""
    files = {}
    for path in sorted(ROOT.glob("opsearch/**/*.py")):
        if path.relative_to(ROOT).parts[1] in PARTS:
            continue
        files[module_name(path.relative_to(ROOT))] = path
    for part in PARTS:
        for path in sorted((ROOT / part).glob("**/*.py")):
            files[module_name(Path("opsearch") / path.relative_to(ROOT))] = path
    return files


def module_name(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name, path):
    """Modules of opsearch that a file imports, also in functions; not those for type checkers."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide the layer"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = source_files()
IMPORTS = {name: imports(name, path) & FILES.keys() for name, path in FILES.items()}


def floor(module):
    parts = module.split(".")
    return next(i for i, names in enumerate(FLOORS) if parts[1] in names)


@pytest.mark.parametrize("part", PARTS)
def test_links_exist(part):
    link = ROOT / "opsearch" / part
    assert link.is_symlink()
    assert os.readlink(link) == f"../{part}"


def test_listed_packages_are_the_folders():
    with (ROOT / "pyproject.toml").open("rb") as file:
        setuptools = tomllib.load(file)["tool"]["setuptools"]
    packages = {name for name, path in FILES.items() if path.name == "__init__.py"}
    folders = {module_name(p.parent.relative_to(ROOT)) for p in FILES.values() if p.parts}
    assert set(setuptools["packages"]) == packages
    assert {f if f.startswith("opsearch") else f"opsearch.{f}" for f in folders} == packages
    mapped = {f"opsearch.{part}": part for part in PARTS} | {"opsearch": "opsearch"}
    assert setuptools["package-dir"] == mapped


def test_every_module_has_a_floor():
    inner = [name for name in FILES if "." in name]
    assert {name.split(".")[1] for name in inner} == {n for names in FLOORS for n in names}


@pytest.mark.parametrize("module", [name for name in FILES if "." in name])
def test_no_arrow_runs_up(module):
    upward = {
        other
        for other in IMPORTS[module]
        if "." in other and floor(other) > floor(module) and (module, other) not in EXCEPTIONS
    }
    assert not upward


def test_no_circles():
    """Every module can be given a place such that it imports only modules placed before."""
    left = {m: {o for o in IMPORTS[m] if (m, o) not in EXCEPTIONS and o != m} for m in FILES}
    # The package's own __init__ imports its public names when they are first used.
    left["opsearch"] = set()
    while free := [m for m, others in left.items() if not others]:
        for module in free:
            del left[module]
        for others in left.values():
            others.difference_update(free)
    assert not left


@pytest.mark.parametrize("path", sorted([*FILES.values(), *(ROOT / "tests").glob("**/*.py")]))
def test_never_imported_by_the_bare_name(path):
    """`import solvers` would make every class exist twice."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        assert not {name.split(".")[0] for name in names} & set(PARTS)


def test_parts_know_nothing_of_each_other():
    for module, others in IMPORTS.items():
        part = module.split(".")[1] if "." in module else ""
        packages = {o.split(".")[1] for o in others if "." in o}
        if part == "objectives":
            assert not packages & {"solvers", "runtime", "measure", "analysis"}
        if part == "solvers":
            spaces = {"spaces", "layer_space", "layer_costs"}
            assert packages <= {"solvers", "problem", "solution", "errors", "policy"} | spaces
        if part in ("measure", "runtime"):
            assert not packages & {"solvers", "objectives"}
        if part == "analysis":
            assert not packages & {"runtime", "measure", "solvers", "config"}
