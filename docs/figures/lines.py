"""Print how many lines bertkit has: all, and those that are code.

python docs/figures/lines.py
"""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def code_lines(source: str) -> int:
    """Count lines that are neither blank, comment nor docstring."""
    strings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            used |= set(range(token.start[0], token.end[0] + 1))
    return len(used - strings)


def main() -> None:
    sources = [p.read_text(encoding="utf-8") for p in Path("bertkit").rglob("*.py")]
    total = sum(len(source.splitlines()) for source in sources)
    print(f"bertkit/: {total} lines, {sum(map(code_lines, sources))} of them code")


if __name__ == "__main__":
    main()
