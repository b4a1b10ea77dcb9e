"""The failpoints there are, read from the sources."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def named() -> list[str]:
    """The name of each failpoint in the sources, as often as it stands there."""
    names = []
    for path in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"a failpoint's name is written out: {path}"
                names.append(str(name.value))
    return names
