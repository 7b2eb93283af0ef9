"""Publishing a run, on small notebooks made here."""

import hashlib
import json
import sys
from pathlib import Path

import nbformat
import pytest
from made_notebooks import FOLDER, stream, write_notebook
from nbformat.v4 import new_code_cell

from artlib import __main__ as cli
from artlib.running import parameters, publish, run_folder


def ran(folder: Path, *cells_outputs: tuple[str, list], profile: str = "demo") -> tuple[Path, dict]:
    """A notebook, as if its run had given these outputs."""
    source = write_notebook(folder / "01_one.ipynb", *(cell for cell, _ in cells_outputs))
    mine = run_folder.of(profile)
    done = nbformat.read(source, as_version=4)
    for cell, (_, outputs) in zip(done.cells[2:], cells_outputs, strict=True):
        cell.outputs = [nbformat.from_dict(output) for output in outputs]
    done.cells.insert(2, new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]}))
    for count, cell in enumerate(done.cells[1:], 1):
        cell.execution_count = count
        cell.metadata["papermill"] = {"status": "completed"}
    done.metadata["papermill"] = {"input_path": str(source)}
    (mine / "notebooks").mkdir()
    nbformat.write(done, mine / "notebooks" / source.name)
    (mine / "figures").mkdir()
    (mine / "figures" / "lift.png").write_bytes(b"png")
    (mine / "figures" / "stale.png").write_bytes(b"of other parameters")
    step = {"started": "2026-01-01", "commit": "c0ffee", "versions": {"torch": "2"}, "figures": ["lift.png"]}
    step["seconds"] = 2.5
    return mine, {
        "profile": profile,
        "command": "python -m artlib run",
        "steps": {"01_one": step},
        "results": {"01_one": {"n": 3}},
    }


def publish_run(folder: Path, mine: Path, content: dict, **values) -> list[str]:
    known = parameters.known([folder / "01_one.ipynb"])
    values = {name: parameter.default for name, parameter in known.items()} | values
    return publish.publish(mine, content, [folder / "01_one.ipynb"], known, values)


def display(**data) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": data}


def test_publishing_cleans_outputs_and_writes_provenance(folder):
    widget = "application/vnd.jupyter.widget-view+json"
    result = {
        "output_type": "execute_result",
        "execution_count": 9,
        "metadata": {},
        "data": {"text/plain": "7"},
    }
    picture = display(**{"image/png": "iVBOR/tmp/x", "text/plain": "<Figure>"})
    outputs = [
        stream("a\n"),
        stream("warning", "stderr"),
        stream("\r1%\r100%\nb\n"),
        display(**{widget: {}}),
        display(**{"text/html": "<progress value='1'>"}),
        picture,
        result,
    ]
    mine, content = ran(folder, ("print('a')", outputs), ("print(folder)", []))
    node = nbformat.read(mine / "notebooks" / "01_one.ipynb", as_version=4)
    text = f"{mine}/log {mine} {folder.parent}/x {folder.parent} {sys.prefix}/lib\n"
    node.cells[-1].outputs = [nbformat.from_dict(stream(text))]
    nbformat.write(node, mine / "notebooks" / "01_one.ipynb")

    said = publish_run(folder, mine, content)
    node = nbformat.read(folder / "01_one.ipynb", as_version=4)
    assert [cell.source for cell in node.cells[2:]] == ["print('a')", "print(folder)"]
    assert [cell.execution_count for cell in node.cells[1:]] == [1, 2, 3]
    kept = node.cells[2].outputs
    assert [output.output_type for output in kept] == ["stream", "display_data", "execute_result"]
    assert kept[0].text == "a\n100%\nb\n" and kept[1].data["image/png"] == "iVBOR/tmp/x"
    assert kept[2].execution_count == 2
    assert node.cells[3].outputs[0].text == "runs/demo/log runs/demo x . <python>/lib\n"
    assert "papermill" not in nbformat.writes(node) and node.metadata.kernelspec.name == "python3"
    assert node.metadata.artlib == {"run": "demo", "code": publish.code_hash(node)}

    figure = folder.parent / "figures" / "lift.png"
    record = folder.parent / "results" / "demo.json"
    assert said == [f"published {figure}", f"published {record}", f"published {folder / '01_one.ipynb'}"]
    numbers = json.loads(record.read_text())
    assert numbers["results"] == {"01_one": {"n": 3}} and numbers["seconds"] == {"01_one": 2.5}
    assert numbers["commit"] == "c0ffee"
    provenance = json.loads(figure.with_suffix(".json").read_text())
    assert provenance["sha256"] == hashlib.sha256(b"png").hexdigest()
    assert (provenance["commit"], provenance["profile"]) == ("c0ffee", "demo")
    assert provenance["date"] == "2026-01-01"
    assert provenance["parameters"]["seed"] == 0 and provenance["versions"] == {"torch": "2"}


def test_other_parameters_publish_figures_under_their_own_name_and_no_notebooks(folder):
    mine, content = ran(folder, ("1", []), profile="small")
    before = (folder / "01_one.ipynb").read_bytes()
    said = publish_run(folder, mine, content, run="small", seed=5)
    assert (folder / "01_one.ipynb").read_bytes() == before
    assert "notebooks not published" in said[-1] and "seed = 5 (not 0)" in said[-1]
    figures = {path.name for path in (folder.parent / "figures").iterdir()}
    assert figures == {"small-lift.png", "small-lift.json"}


@pytest.mark.parametrize(
    "path", ["/home/me/data", "path=/tmp/x1", "log:/Users/y", "file:///srv/x", "C:\\Users\\me", "/Users/me/x"]
)
def test_foreign_local_path_is_refused_before_anything_is_written(folder, path):
    mine, content = ran(folder, ("1", [stream(f"read {path}\n")]))
    before = (folder / "01_one.ipynb").read_bytes()
    with pytest.raises(publish.PublishError, match="is a path of this machine's"):
        publish_run(folder, mine, content)
    assert (folder / "01_one.ipynb").read_bytes() == before
    assert not (folder.parent / "figures").exists()


def test_address_is_no_local_path():
    assert not publish.LOCAL_PATH.search("see https://example.org/home/x and runs/tmp/y and ~/home/")


def test_notebook_changed_since_its_run_is_not_published(folder):
    mine, content = ran(folder, ("1", []))
    write_notebook(folder / "01_one.ipynb", "2")
    with pytest.raises(publish.PublishError, match="changed since"):
        publish_run(folder, mine, content)


@pytest.mark.notebooks
def test_run_publishes_end_to_end_and_stays_finished(folder, package, capsys):
    draw = "(folder / 'figures').mkdir(exist_ok=True)\n(folder / 'figures' / 'a.png').write_bytes(b'png')"
    write_notebook(folder / "01_one.ipynb", FOLDER, draw, "print(folder)")
    arguments = ["run", "--profile", "demo", "--publish", "--notebooks", str(folder)]
    assert cli.main(arguments) == 0
    assert (folder.parent / "figures" / "a.json").exists()
    assert nbformat.read(folder / "01_one.ipynb", as_version=4).cells[-1].outputs[0].text == "runs/demo\n"
    assert cli.main(arguments) == 0
    assert "[1/1] 01_one ... unchanged, skipped" in capsys.readouterr().out
    assert cli.main([*arguments, "--force"]) == 0
    assert "skipped" not in capsys.readouterr().out
