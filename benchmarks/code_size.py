"""Size of the installed code: files, lines, modules at the top, median file and function."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.rows import BenchmarkRow

ROOT = Path(__file__).parent.parent
FOLDERS = ("opsearch", "objectives", "solvers", "analysis")
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_size(root: Path = ROOT) -> Iterator[BenchmarkRow]:
    """Yield the figures of a checkout; links inside of `opsearch/` are followed once."""
    files = [
        path
        for folder in FOLDERS
        for path in (root / folder).rglob("*.py")
        if not (folder == "opsearch" and path.relative_to(root).parts[1] in FOLDERS)
    ]
    texts = [path.read_text(encoding="utf-8") for path in files]
    functions = [
        node.end_lineno - node.lineno + 1
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]
    lines = [text.count("\n") for text in texts]
    yield {
        "files": len(files),
        "lines": sum(lines),
        "lines of code": sum(map(lines_of_code, texts)),
        "modules at the top": len(list((root / "opsearch").glob("*.py"))),
        "median lines of a file": median(lines),
        "median lines of a function": median(functions),
        "functions over 60 lines": sum(length > 60 for length in functions),
    }


def lines_of_code(text: str) -> int:
    """Count the lines of a module that hold more than docstrings and comments."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(code - docstrings)
