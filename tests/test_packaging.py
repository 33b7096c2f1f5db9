"""The wheel and the source distribution hold everything and install into an empty environment."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, opsearch
names = [m.name for m in pkgutil.walk_packages(opsearch.__path__, "opsearch.")]
by_lmms_eval = {"opsearch.evaluation.lmms.families", "opsearch.evaluation.lmms.model"}
for name in names:
    if name.endswith("__main__") or name in by_lmms_eval:
        continue
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if not name.startswith("opsearch.serving.") or missing.name != "vllm":
            raise
print(opsearch.__file__, *names)
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A wheel and an sdist, built from a copy without what git ignores."""
    source = tmp_path_factory.mktemp("source") / "opsearch"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\n")  # fmt: skip
    for name in filter(None, listed):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installs_and_imports_every_module(kind, distributions, tmp_path):
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    # Dependencies are shared: the packages of this environment, but not its editable opsearch,
    # whose .pth file is not read from a folder that is itself on a .pth line.
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = environment / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps",
         "--no-build-isolation", "--no-index", "--quiet", str(distributions[kind])],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    run = subprocess.run(
        [python, "-c", IMPORT_EVERYTHING],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    where, *names = run.stdout.split()
    assert Path(where).is_relative_to(environment)
    folders = {"opsearch": ROOT / "opsearch"}
    folders |= {f"opsearch.{part}": ROOT / part for part in ("analysis", "objectives", "solvers")}
    modules = {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts])
        for package, folder in folders.items()
        for path in folder.glob("**/*.py")
    }
    assert set(names) | {"opsearch"} == {name.removesuffix(".__init__") for name in modules}
    model = Path(where).parent / "data" / "demo" / "model" / "model.safetensors"
    assert model.stat().st_size > 1_000_000
    for file in (
        "py.typed",
        "report/page.html",
        "report/style.css",
        "data/lmms_tasks/color.yaml",
    ):
        assert (Path(where).parent / file).exists()
    for name in ("benchmarks", "training", "tests"):
        assert not (Path(where).parents[1] / name).exists()
