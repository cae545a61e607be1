"""The rules of the house that no linter knows: short functions and names that say something.

Rule 1: no function is longer than 90 lines, docstring included.
Rule 2: no module and no function bears a name that fits everything.
Rule 3: the two packages begin with a story, not with code.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_FUNCTION_LINES = 90
VAGUE_VERBS = frozenset(
    ("process", "handle", "handler", "handlers", "helper", "helpers", "util", "utils", "misc")
) | {"data", "info", "stuff"}
VAGUE = VAGUE_VERBS | {"manager", "managers", "common", "base", "core", "impl", "tools"}
"""For modules; a function may speak of *the* manager or of the base model."""
PLACES = ("agent", "fleet", "tests", "scripts")


def complaints(root: Path) -> Iterator[str]:
    """Yield one sentence for each broken rule below ``root``."""
    for place in PLACES:
        for path in sorted((root / place).rglob("*.py")):
            name = path.relative_to(root)
            yield from _of_names(name)
            yield from of_functions(path.read_text(encoding="utf-8"), str(name))
    for package in ("agent", "fleet"):
        body = ast.parse((root / package / "__init__.py").read_text(encoding="utf-8")).body
        if len(body) != 1 or not isinstance(body[0], ast.Expr):
            yield f"{package}/__init__.py: holds more than its docstring"


def of_functions(source: str, where: str) -> Iterator[str]:
    """Yield one sentence for each function that is too long or vaguely named."""
    for node in ast.walk(ast.parse(source, where)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > LONGEST_FUNCTION_LINES:
            yield (
                f"{where}:{node.lineno}: {node.name} has {lines} lines; "
                f"at most {LONGEST_FUNCTION_LINES} are read in one go"
            )
        if node.name.strip("_") in VAGUE_VERBS:
            yield f"{where}:{node.lineno}: the name {node.name} fits everything; say what it does"


def _of_names(name: Path) -> Iterator[str]:
    for part in (*name.parts[:-1], name.stem):
        if part.strip("_") in VAGUE:
            yield f"{name}: the name {part} fits everything; say what it is for"


def main() -> int:
    """Print the complaints about this checkout; their presence is the exit status."""
    found = list(complaints(Path(__file__).resolve().parents[1]))
    for sentence in found:
        print(sentence)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
