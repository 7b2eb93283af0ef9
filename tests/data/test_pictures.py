"""Pictures of a log: which can be opened, what is said of the others, and where they lie when a log moves."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from artlib.data import Log, LogError, pictures


def put_images(log: Log, images: list) -> Log:
    images = images + [None] * (len(log.artworks) - len(images))
    place = log.artworks.schema.get_field_index("image")
    return dataclasses.replace(log, artworks=log.artworks.set_column(place, "image", pa.array(images, pa.string())))


def noise(size=(32, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "grey.png", "alpha.png"])
def test_pictures_of_usual_kinds_are_read_in_rgb(tmp_path, name):
    picture = noise().convert({"grey.png": "L", "alpha.png": "RGBA"}.get(name, "RGB"))
    picture.save(tmp_path / name)
    read = pictures.read(tmp_path / name, side=24)
    assert read.mode == "RGB" and read.size == (16, 24)
    assert pictures.read(tmp_path / name).size == (32, 48)


def test_a_picture_is_turned_as_its_camera_was(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    noise().save(tmp_path / "a.jpg", exif=exif)
    assert pictures.read(tmp_path / "a.jpg").size == (48, 32)


def broken(folder) -> dict[str, str]:
    """File -> what is said of it."""
    noise().save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:700])
    noise().save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:700])
    (folder / "page.png").write_text("<html>not found</html>")
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    Image.new("1", (30_000, 20_000)).save(folder / "huge.png")
    with open(folder / "film.png", "wb") as file:
        file.truncate(pictures.LARGEST + 1)
    return {
        "cut.jpg": "cannot be opened as a picture",
        "cut.png": "cannot be opened as a picture",
        "page.png": "cannot be opened as a picture",
        "empty.png": "cannot be opened as a picture",
        "folder.png": "is a folder",
        "huge.png": "decompression bomb",
        "film.png": "100,000,001 bytes",
        "none.png": "does not exist",
    }


def test_what_is_no_picture_is_named_with_row_and_reason(tmp_path, small_log):
    said = broken(tmp_path)
    log = put_images(small_log, [None, *said])
    with pytest.raises(LogError) as caught:
        log.validate(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == len(said)
    for row, (line, (name, reason)) in enumerate(zip(lines, said.items(), strict=True), start=1):
        assert f"artworks.parquet row {row}, column image: '{name}'" in line and reason in line


def test_only_some_of_many_broken_pictures_are_named(tmp_path, small_log):
    log = put_images(small_log, [f"{n}.png" for n in range(pictures.SHOWN + 7)])
    assert len(found := pictures.faults(log.artworks, tmp_path)) == pictures.SHOWN + 1
    assert found[-1] == "and 7 more pictures"


def test_a_log_that_moves_still_finds_its_pictures(tmp_path, small_log):
    small_log.save(tmp_path / "mine")
    noise().save(tmp_path / "mine" / "a.png")
    mine = put_images(Log.load(tmp_path / "mine"), ["a.png", str(tmp_path / "mine" / "a.png")])
    mine.save(tmp_path / "runs" / "log")
    moved = Log.load(tmp_path / "runs" / "log")  # validates
    image = moved.artworks["image"][0].as_py()
    assert pictures.read(pictures.path(moved.folder, image)).size == (32, 48)
    assert moved.artworks["image"].to_pylist()[2:] == [None] * (len(moved.artworks) - 2)


@pytest.mark.parametrize("name", ["notes.txt", "impressions.csv", "img", "README.md"])
def test_a_log_is_not_written_over_other_files(tmp_path, small_log, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).mkdir() if name == "img" else (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(LogError, match=f"{name} among them, which would be lost"):
        small_log.save(tmp_path / "mine")
    assert (tmp_path / "mine" / name).exists()
    with pytest.raises(LogError, match="is a file"):
        small_log.save(__file__)


def test_a_log_that_is_there_is_replaced_but_for_what_is_to_stay(tmp_path, small_log):
    small_log.save(tmp_path / "log")
    small_log.save(tmp_path / "log")
    (tmp_path / "log" / "captions.jsonl").write_text("paid for")
    with pytest.raises(LogError, match=r"captions.jsonl among them"):
        small_log.save(tmp_path / "log")
    small_log.split("test").save(tmp_path / "log", keep=["captions.jsonl", "none.txt"])
    assert (tmp_path / "log" / "captions.jsonl").read_text() == "paid for"
    assert len(Log.load(tmp_path / "log", validate=False).impressions) == len(small_log.split("test").impressions)


def test_a_log_is_not_written_over_its_own_pictures(tmp_path, small_log):
    small_log.save(tmp_path / "mine")
    noise().save(tmp_path / "mine" / "a.png")
    mine = put_images(Log.load(tmp_path / "mine"), ["a.png"])
    with pytest.raises(LogError, match="a.png among them, which would be lost"):
        mine.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "a.png").exists()
