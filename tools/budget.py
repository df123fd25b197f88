"""Holds the size of stretto/: fails when a file, a function or a habit outgrows its limit."""

import ast
import sys
from pathlib import Path

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 90
MAX_BROAD_EXCEPTS = 10

ROOT = Path(__file__).resolve().parent.parent / "stretto"
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def function_lines(tree: ast.AST) -> dict[str, int]:
    """Lines from ``def`` to the end of the body, by name and first line."""
    return {
        f"{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, FUNCTIONS)
    }


def is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything: ``except:``, ``except Exception``, or a tuple with it."""
    kind = handler.type
    caught = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id == "Exception") for name in caught
    )


def main(root: Path = ROOT) -> int:
    """Print the totals and each excess; 1 when there is one."""
    excesses: list[str] = []
    broad: list[str] = []
    sizes: list[int] = []
    lengths: list[int] = []
    for path in sorted(root.rglob("*.py")):
        where = path.relative_to(root.parent)
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path))
        sizes.append(len(text.splitlines()))
        if sizes[-1] > MAX_FILE_LINES:
            excesses.append(f"{where}: {sizes[-1]} lines, at most {MAX_FILE_LINES}")
        for name, lines in function_lines(tree).items():
            lengths.append(lines)
            if lines > MAX_FUNCTION_LINES:
                excesses.append(f"{where}:{name}: {lines} lines, at most {MAX_FUNCTION_LINES}")
        handlers = (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler))
        broad += [f"{where}:{handler.lineno}" for handler in handlers if is_broad(handler)]
    if len(broad) > MAX_BROAD_EXCEPTS:
        excesses.append(
            f"{len(broad)} broad excepts, at most {MAX_BROAD_EXCEPTS}: {', '.join(broad)}"
        )
    print(
        f"budget: {sum(sizes)} lines in {len(sizes)} files (longest {max(sizes, default=0)}), "
        f"{len(lengths)} functions (longest {max(lengths, default=0)}), {len(broad)} broad excepts"
    )
    for excess in excesses:
        print(f"budget: {excess}", file=sys.stderr)
    return 1 if excesses else 0


if __name__ == "__main__":
    sys.exit(main())
