"""The size of a checkout counts each file once, and code without docstrings and comments."""

from benchmarks.code_size import code_size

MODULE = '''"""Two lines
of docstring."""

# A comment.
TEXT = """two lines
of code"""


def function():
    """Return nothing."""
    return (
        None
    )
'''


def test_links_are_followed_once_and_docstrings_are_no_code(tmp_path):
    for folder in ("opsearch", "objectives", "solvers", "analysis"):
        (tmp_path / folder).mkdir()
    (tmp_path / "opsearch" / "solvers").symlink_to(tmp_path / "solvers")
    (tmp_path / "opsearch" / "top.py").write_text(MODULE)
    (tmp_path / "solvers" / "grid.py").write_text(MODULE)
    (size,) = code_size(tmp_path)
    assert (size["files"], size["modules at the top"]) == (2, 1)
    assert size["lines"] == 2 * MODULE.count("\n")
    assert size["lines of code"] == 2 * (2 + 1 + 3)
