"""Published results: a run's figures and numbers with their provenance, its outputs in the committed notebooks."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artlib import ArtlibError, files
from artlib.running import notebook
from artlib.running.parameters import Parameter

if TYPE_CHECKING:
    import nbformat

# An absolute path of some machine's, not one inside a URL or a base64 picture.
LOCAL_PATH = re.compile(
    r"(file://|(?<![\w/.+~])(/(tmp|home|root|Users|var/folders|work|mnt|opt)/|[A-Z]:\\Users\\))[^\s'\"]*"
)
_PICTURES = ("image/png", "image/jpeg", "application/pdf")
_WIDGET = "application/vnd.jupyter.widget-view+json"


class PublishError(ArtlibError, ValueError):
    """A run that may not be published as it is."""


def publish(folder: Path, content: dict, notebooks: list[Path], known: dict[str, Parameter], values: dict) -> list[str]:
    """Publish a finished run into the repository that holds the notebooks: figures/, and results/NAME.json.

    A run with other parameters than the notebooks' own publishes its figures and numbers, under its own name; the
    notebooks stay as they are, for their outputs would contradict the parameters shown above them.

    Args:
        folder: the run's.
        content: its `run.json`.
        notebooks: the committed notebooks.
        known: their parameters.
        values: the run's.

    Returns:
        What was written, or why not, a line each.

    Raises:
        PublishError: an output names a path of this machine's. Nothing was written.
    """
    import nbformat

    repository = notebooks[0].parent.parent
    places = _places(folder, repository)
    differing = [name for name in known if name in values and values[name] != known[name].default]
    provenance = localized({**_provenance(content), "parameters": values}, places, "provenance")
    filled = {}
    for path in notebooks if not differing else ():
        filled[path] = fill(path, folder / "notebooks" / path.name, values["run"], places)
    prefix = f"{values['run']}-" if differing else ""
    said = []
    # Not those that earlier runs of other notebooks or parameters left.
    pictures = {folder / "figures" / name for step in content["steps"].values() for name in step["figures"]}
    for picture in sorted(pictures):
        target = repository / "figures" / f"{prefix}{picture.name}"
        with files.replacing(target) as temporary:
            shutil.copyfile(picture, temporary)
        files.write_json(target.with_suffix(".json"), {**provenance, "sha256": files.sha256(target)})
        said.append(f"published {target}")
    record = repository / "results" / f"{values['run']}.json"
    files.write_json(record, {**provenance, **localized(_results(content), places, "results")})
    said.append(f"published {record}")
    for path, node in filled.items():
        with files.replacing(path) as temporary:
            temporary.write_text(nbformat.writes(node) + "\n", encoding="utf-8")
        said.append(f"published {path}")
    if differing:
        others = ", ".join(f"{name} = {values[name]!r} (not {known[name].default!r})" for name in differing)
        said.append(f"notebooks not published: the run's parameters are not their own: {others}")
    return said


def _results(content: dict) -> dict:
    """What the notebooks recorded, and how long each took."""
    return {
        "results": content.get("results", {}),
        "seconds": {name: step["seconds"] for name, step in content["steps"].items()},
    }


def fill(source: Path, executed: Path, run: str, places: dict[str, str]) -> nbformat.NotebookNode:
    """A committed notebook with the outputs of its executed copy.

    Cells and metadata stay the source's. Left out: what papermill put in, stderr, progress bars, widgets.

    Args:
        source: the committed notebook.
        executed: its executed copy.
        run: the run's name, kept in the metadata with a hash of the code that the outputs are from.
        places: what to write instead of this machine's folders.
    """
    node = notebook.read(source)
    done = notebook.read(executed)
    if notebook.code(node) != notebook.code(done):
        raise PublishError(f"{source} changed since {executed} ran; run it again")
    results = (cell for cell in done.cells if cell.cell_type == "code" and not notebook.is_added(cell))
    count = 0
    for cell in node.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            outputs = next(results).outputs
            count += bool(cell.source)
            cell.execution_count = count if cell.source else None
            cell.outputs = localized(_kept(outputs, count), places, str(source))
    for key in ("papermill", "widgets"):
        node.metadata.pop(key, None)
    node.metadata["artlib"] = {"run": run, "code": code_hash(node)}
    return node


def code_hash(node: nbformat.NotebookNode) -> str:
    """What a published notebook's metadata say of the code that its outputs are from."""
    return hashlib.sha256(json.dumps(notebook.code(node)).encode()).hexdigest()


def localized(content: Any, places: dict[str, str], where: str) -> Any:
    """`content` with `places` replaced in every string except pictures.

    Raises:
        PublishError: a path of this machine's is left.
    """
    import nbformat

    if isinstance(content, dict):
        items = {k: v if k in _PICTURES else localized(v, places, where) for k, v in content.items()}
        return nbformat.from_dict(items) if isinstance(content, nbformat.NotebookNode) else items
    if isinstance(content, list):
        return [localized(item, places, where) for item in content]
    if not isinstance(content, str):
        return content
    for place, name in places.items():
        start = rf"(?<![\w/]){re.escape(place)}"
        content = re.sub(rf"{start}/", "" if name == "." else f"{name}/", content)
        content = re.sub(rf"{start}(?![\w-])", name, content)
    if found := LOCAL_PATH.search(content):
        raise PublishError(f"{where}: {found.group()!r} is a path of this machine's; print a relative one")
    return content


def _places(folder: Path, repository: Path) -> dict[str, str]:
    """Folders of this machine, the longest first, and what to write instead."""
    places = {folder: f"runs/{folder.name}", repository: ".", Path(sys.prefix): "<python>", Path.home(): "~"}
    places |= {path.resolve(): name for path, name in places.items()}
    longest_first = sorted(places, key=lambda path: -len(str(path)))
    return {str(path): places[path] for path in longest_first if path != Path("/")}


def _provenance(content: dict) -> dict:
    """Where a run's figures are from; date, commit and versions are its last notebook's."""
    last = max(content["steps"].values(), key=lambda step: step["started"])
    return {
        "profile": content["profile"],
        "command": content["command"],
        "commit": last["commit"],
        "date": last["started"],
        "versions": last["versions"],
    }


def _kept(outputs: list, count: int) -> list:
    """The outputs worth publishing; prints that dropped ones had parted are joined again."""
    kept: list = []
    for output in outputs:
        if output.output_type == "stream":
            text = "".join(line.rpartition("\r")[2] for line in output.text.splitlines(keepends=True))
            if output.name == "stderr" or not text:
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += text
                continue
            output.text = text
        elif _WIDGET in output.get("data", {}) or "<progress" in output.get("data", {}).get("text/html", ""):
            continue
        elif output.output_type == "execute_result":
            output.execution_count = count
        kept.append(output)
    return kept
