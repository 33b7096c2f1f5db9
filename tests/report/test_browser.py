"""The page in headless Chromium: nothing is loaded, nothing is wider than a phone."""

import json
import re
import shutil
import subprocess

import pytest

from opsearch import RunConfig
from opsearch.commands.run import run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--dump-dom",
)
# A frame is as narrow as a phone, which headless windows are not; the page itself runs no script.
PROBE = """<body><iframe src="report.html" style="width: 360px; height: 800px"></iframe><script>
onload = () => {
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  const boxed = e => e.closest(".scroll, .figure, pre");
  const wide = [...page.querySelectorAll("main *")].filter(
    e => !boxed(e) && e.getBoundingClientRect().right > 360.5);
  const pictures = [...page.images];
  const text = JSON.stringify({
    width: page.documentElement.scrollWidth,
    wide: wide.map(e => e.outerHTML.slice(0, 80)),
    loaded: view.performance.getEntriesByType("resource").map(e => e.name)
      .filter(name => !name.startsWith("data:")),
    pictures: pictures.length, shown: pictures.filter(e => e.naturalWidth > 0).length,
  });
  document.body.replaceChildren("PROBE" + text + "END");
}
</script></body>"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Findings of the probe in the page of a run, and messages of the browser."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    settings = {"samples": 4, "heldout": 30, "n_v": (".5",), "objective": "joint"}
    run(RunConfig(**settings, complete=True, out=folder))
    html = (folder / "report.html").read_text()
    # A word without an end, as data and models may hold, must not make the page wider.
    (folder / "report.html").write_text(html.replace("what ", "what" + "w" * 400 + " "))
    (folder / "probe.html").write_text(PROBE)
    profile = tmp_path_factory.mktemp("profile")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"file://{folder}/probe.html"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"PROBE(\{.*\})END", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    return json.loads(found[1]), done.stderr


def test_nothing_is_wider_than_a_phone(opened):
    found, _ = opened
    assert found["wide"] == []
    assert found["width"] == 360


def test_nothing_is_loaded_but_every_picture_is_shown(opened):
    found, _ = opened
    assert found["loaded"] == []
    assert found["pictures"] == found["shown"] > 0


def test_the_console_stays_empty(opened):
    _, said = opened
    assert "CONSOLE" not in said
