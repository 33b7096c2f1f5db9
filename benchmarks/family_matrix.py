"""Tests of each family and their seconds, from files that pytest writes with `--junitxml`.

Tests that belong to no single family are left out.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree

from opsearch.models.families import FAMILIES

FILES = (
    "tests/models/test_reference.py",
    "tests/models/test_families.py",
    "tests/models/test_family_answers.py",
    "tests/models/test_executed_flops.py",
    "tests/measure/test_engine_families.py",
)


@dataclass(frozen=True)
class Case:
    """A test that ran.

    Attributes:
        file: Its file.
        name: Its name with its parameters.
        seconds: Wall time, fixtures included.
    """

    file: str
    name: str
    seconds: float

    @property
    def family(self) -> str | None:
        """Family that its parameters or its name tell, None without any."""
        words = re.split(r"[\[\]-]", self.name)
        own = [family for family in FAMILIES if family in words]
        ends = [family for family in FAMILIES if self.name.endswith(f"_of_{family}")]
        return next(iter([*own, *ends]), None)


def _cases(path: str) -> Iterator[Case]:
    """Yield the tests of a file of pytest that were not skipped."""
    for test in ElementTree.parse(path).iter("testcase"):
        if test.find("skipped") is None:
            file = test.attrib["classname"].replace(".", "/") + ".py"
            yield Case(file, test.attrib["name"], float(test.attrib["time"]))


def _default_tests() -> frozenset[str]:
    """Return the ids of the tests that run by default."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *FILES]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return frozenset(line for line in listed.splitlines() if "::" in line)


def table(*paths: str) -> str:
    """Return a table in Markdown with a row per family, from files of pytest."""
    return "\n".join(_lines((case for path in paths for case in _cases(path)), _default_tests()))


def _lines(found: Iterable[Case], default: frozenset[str]) -> Iterator[str]:
    seconds: dict[tuple[str | None, bool], list[float]] = defaultdict(list)
    for case in found:
        seconds[case.family, f"{case.file}::{case.name}" in default].append(case.seconds)
    yield "| family | default tests | seconds | slow tests | seconds |"
    yield "|---|---|---|---|---|"
    for family in FAMILIES:
        parts = [seconds[family, True], seconds[family, False]]
        yield " | ".join([f"| `{family}`", *(f"{len(p)} | {sum(p):.0f}" for p in parts)]) + " |"
