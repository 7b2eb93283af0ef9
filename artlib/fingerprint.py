"""Is what is kept an answer to the same question? One rule for logs, adapters, reasons, answers and notebooks.

A question is a mapping of all that decides its answer: settings, the code that computes it, what is read. It is kept
beside the answer, which holds as long as the same question is asked. Where the question itself would take up too much
room, its digest is kept instead.
"""

import ast
import hashlib
import inspect
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def changed(kept: Mapping | None, asked: Mapping, but: str | None = None) -> list[str]:
    """In what the question that is asked differs from the one that was kept: names such as `settings.epochs`.

    Args:
        kept: the question that an answer was kept for, maybe with the answer beside it; None where there is none.
        asked: the question now.
        but: a name that decides nothing, such as the type of the numbers, which is the machine's affair.

    Returns:
        Empty if what is kept answers it.
    """
    names = []
    for name, value in asked.items():
        old = (kept or {}).get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            missing = [inner for inner in old.keys() - value.keys() if inner != but]
            names += [f"{name}.{inner}" for inner in [*changed(old, value, but), *sorted(missing)]]
        elif name != but and (kept is None or name not in kept or old != value):
            names.append(name)
    return names


def digest(question: object) -> str:
    """Return the SHA-256 of a question of plain values."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def code(*parts: ModuleType | Path) -> str:
    """Return the SHA-256 of what modules, packages or folders do: their syntax trees and the texts that they ship, so
    that comments and docstrings do not count."""
    found = hashlib.sha256()
    for path in [path for part in parts for path in _sources(part)]:
        text = path.read_text(encoding="utf-8")
        found.update((_undocumented(text) if path.suffix == ".py" else text).encode())
    return found.hexdigest()


def code_from_outside(*things: Any) -> str:
    """Return the SHA-256 of the code of functions and classes that were registered from outside this package: of the
    file that they are in, or of themselves where they are from a notebook; "" for those of the package."""
    found = hashlib.sha256()
    outside = [thing for thing in things if not (getattr(thing, "__module__", None) or "").startswith("artlib.")]
    for thing in outside:
        try:
            path = Path(inspect.getsourcefile(thing) or "")
            text = path.read_text(encoding="utf-8") if path.is_file() else inspect.getsource(thing)
        except (OSError, TypeError):
            text = uuid.uuid4().hex  # nobody can say whether it is the same: never taken for it
        found.update(text.encode())
    return found.hexdigest() if outside else ""


def _sources(part: ModuleType | Path) -> list[Path]:
    path = part if isinstance(part, Path) else Path(str(part.__file__))
    folder = path.parent if path.name == "__init__.py" else path
    if not folder.is_dir():
        return [path]
    return sorted(inner for inner in folder.rglob("*") if inner.suffix in (".py", ".yaml"))


def _undocumented(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
    return ast.dump(tree)
