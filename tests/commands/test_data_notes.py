"""Commands print each note on their data once, on standard error."""

import re
from io import BytesIO

import pandas as pd
import pytest
from PIL import Image

from opsearch import RankerSpec, builders
from opsearch.commands.cli import call
from tests.support.messages import naming


def animation(shade):
    frames = [Image.new("RGB", (20, 20), color) for color in ((shade, 0, 0), "green")]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return {"bytes": buffer.getvalue(), "path": "a.gif"}


@pytest.fixture
def data(tmp_path):
    """A Parquet file of three animations, with a column that is no key."""
    rows = [
        {"image": animation(40 * n), "question": "what color ?", "answer": "red", "number": n}
        for n in range(3)
    ]
    path = tmp_path / "data.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_notes_are_printed_once(data, tmp_path, capsys):
    builders.tokens(12, "1/2", RankerSpec("uniform")).save_pretrained(tmp_path)
    assert call(["eval", str(tmp_path), "--data", str(data)]) == 0
    printed = capsys.readouterr().err
    assert len(re.findall(re.escape(f"{data}: "), printed)) == 1
    assert re.search(naming(f"{data}: ", "columns number;"), printed)
    assert len(re.findall("frames", printed)) == 1
    assert re.search(naming("frames", 3, f"{data}, row 1 (a.gif)"), printed)


@pytest.mark.parametrize("name", ["https://x.org/a.png", "data:image/png;base64,AAAA"])
def test_a_url_is_no_image_of_generate(name, tmp_path, capsys):
    builders.tokens(12, "1/2", RankerSpec("uniform")).save_pretrained(tmp_path)
    assert call(["generate", str(tmp_path), "--image", name, "--prompt", "what color ?"]) == 1
    assert re.search(naming("error", name[:5], "URL", "file"), capsys.readouterr().err)
