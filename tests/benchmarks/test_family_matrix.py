"""The table of the matrix counts the tests that pytest ran, by family and by part."""

import subprocess
import sys

from benchmarks.family_matrix import table
from opsearch.models.families import FAMILIES
from tests.support.families import FAMILIES as TESTED


def test_tests_of_each_family_by_default_and_in_the_slow_part(tmp_path):
    junit = tmp_path / "matrix.xml"
    chosen = "every_family_is_tested or (identity and (vipllava or internvl))"
    options = ["-q", "-p", "no:cacheprovider", "-m", "slow or not slow", "-k", chosen]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={junit}"]
    subprocess.run([*command, "tests/models/test_families.py"], check=True)
    rows = [line.strip("| ").split(" | ") for line in table(str(junit)).splitlines()[2:]]
    assert {name.strip("`"): (int(quick), int(slow)) for name, quick, _, slow, _ in rows} == {
        name: ((name in TESTED) + (name == "internvl"), int(name == "vipllava"))
        for name in FAMILIES
    }
