"""The house: links, packages, layers of imports, as docs/architecture.md describes them."""

import ast
import os
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("analysis", "objectives", "solvers")

# Rooms from the ground up. A module may import its own room and the rooms of lower rows.
FLOORS = (
    ("errors", "version"),
    ("files", "formatting", "registry", "console"),
    ("progress",),
    ("policy", "data"),
    ("rankers",),
    ("costs",),
    ("problem",),
    ("models",),
    ("measure", "adaptive"),
    ("timing", "objectives", "solvers", "serving"),
    ("analysis",),
    ("testing",),
    ("runs",),
    ("report",),
    ("evaluation",),
    ("commands",),
    ("__main__",),
)
SINGLE_MODULES = 8  # at the top of opsearch/, at most
# Policy.apply and Policy.install
LAZY_DOOR = ("opsearch.policy.policy", "opsearch.models.pruned.applied")


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


def room(module):
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_row():
    assert {room(name) for name in FILES if "." in name} == {n for names in FLOORS for n in names}


def test_the_top_holds_rooms_and_few_modules():
    flat = {path.name for path in (ROOT / "opsearch").glob("*.py")}
    assert len(flat) <= SINGLE_MODULES


@pytest.mark.parametrize("module", [name for name in FILES if "." in name])
def test_imports_run_down(module):
    upward = {
        other
        for other in IMPORTS[module]
        if "." in other
        and room(other) != room(module)
        and floor(other) >= floor(module)
        and (module, other) != LAZY_DOOR
    }
    assert not upward


def test_no_circles():
    """Every module can be given a place such that it imports only modules placed before."""
    left = {m: {o for o in IMPORTS[m] if (m, o) != LAZY_DOOR and o != m} for m in FILES}
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


POSITIONS = 5  # arguments of a dataclass without their names, at most


def dataclass_names():
    return {
        node.name
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    }


DATACLASSES = dataclass_names()


def constructions(path):
    """Yield the calls of dataclasses in a file, also of `cls` in their class methods."""
    tree = ast.parse(path.read_text())
    own = {
        id(node): each.name
        for each in ast.walk(tree)
        if isinstance(each, ast.ClassDef)
        for node in ast.walk(each)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if (own.get(id(node)) if called == "cls" else called) in DATACLASSES:
                yield node


@pytest.mark.parametrize("module", FILES)
def test_no_long_dataclass_is_made_by_position(module):
    """Arguments in a row are easily swapped. A starred row of a table counts once."""
    for call in constructions(FILES[module]):
        assert len(call.args) <= POSITIONS, f"line {call.lineno}"
