"""The picture of an artwork: from the log's file, else drawn, else a card that says why not."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("seaborn")

from PIL import Image

from artlib.analysis import plots, posters
from artlib.data import Log


def changed(log: Log, world: str = "own", **columns) -> Log:
    """The log with the first values of columns of its artworks replaced."""
    artworks = log.artworks
    for name, values in columns.items():
        place = artworks.schema.get_field_index(name)
        values = list(values) + artworks[name].to_pylist()[len(values) :]
        artworks = artworks.set_column(place, artworks.schema.field(place), pa.array(values, pa.string()))
    return dataclasses.replace(log, artworks=artworks, manifest={"world": world})


def test_a_file_comes_before_what_the_world_draws_and_that_before_nothing(small_log, tmp_path):
    Image.new("RGB", (900, 600), "#ff0000").save(tmp_path / "red.png")
    log = changed(small_log, "fiction", image=[str(tmp_path / "red.png")])
    own, drawn = posters.of(log, 0), posters.of(log, 1)
    assert own.picture.size == (360, 240) and own.picture.getpixel((5, 5)) == (255, 0, 0)
    assert drawn.picture.size == (240, 360)
    assert posters.of(changed(small_log), 0) == posters.Poster(small_log.artworks["caption"][0].as_py())
    assert posters.of(changed(small_log, "fiction", caption=["Of mine."]), 0).picture is None
    relative = dataclasses.replace(changed(small_log, image=["red.png"]), folder=tmp_path)
    assert posters.of(relative, 0).picture.size == (360, 240)


def test_a_broken_file_is_named_and_its_folder_is_not(small_log, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    log = changed(small_log, "fiction", image=[str(tmp_path / "page.png"), "none.png"])
    for artwork, name in enumerate(("page.png", "none.png")):
        card = posters.tag(posters.of(log, artwork))
        assert "cannot be opened" in card and name in card and str(tmp_path) not in card and "<img" not in card


def test_a_tag_fetches_nothing_and_holds_no_markup_of_the_log(small_log):
    evil = "<script>alert(1)</script>\" onerror='x'"
    for poster in (
        posters.Poster(evil),
        posters.Poster(evil, Image.new("RGB", (300, 200))),
        posters.Poster("", fault=evil),
    ):
        text = posters.tag(poster)
        assert "<script" not in text and "onerror='" not in text and '" onerror' not in text
        assert set(re.findall(r'src="(\w+:)', text)) <= {"data:"}


def test_under_each_candidate_stands_what_every_policy_would_do(small_log):
    test = small_log.split("test")
    arrays = test.arrays()
    policies = {"production": arrays.production, "a <b>": np.where(arrays.mask, 0.125, 0)}
    strip = posters.strip(small_log, test, 4, policies)
    k = arrays.mask[4].sum()
    assert strip.count("<img") == k and strip.count("0.125") == k and "a &lt;b&gt;" in strip
    assert all(f"{value:.3f}" in strip for value in arrays.production[4][arrays.mask[4]])
    assert "true reward" in strip and f"reward {arrays.reward[4]:g}" in strip
    assert len(strip) < 8_000 * k
    plain = posters.strip(changed(small_log), changed(test), 4, policies)
    assert "<img" not in plain and small_log.artworks["caption"][int(arrays.candidates[4, 0])].as_py() in plain
    assert "true reward" not in posters.strip(small_log, dataclasses.replace(test, truth=None), 4, policies)


@pytest.mark.parametrize(("n", "world"), [(1, "fiction"), (1, "own"), (5, "own"), (12, "fiction")])
def test_cards_hold_all_artworks_and_no_words_leave_the_figure(small_log, n, world):
    titles = [small_log.titles["title_id"][row].as_py() for row in (0, 1)]
    owners = [titles[0]] * n + [titles[1]] * (len(small_log.artworks) - n)
    captions = ["Costs $5 or $6: " + "a very long caption of many words " * 20, "Short."]
    log = changed(small_log, world, title_id=owners, caption=captions[:n])
    figure = plots.cards(log, 0)
    figure.canvas.draw()
    shown = [text for text in figure.findobj(plots.matplotlib.text.Text) if text.get_text()]
    assert sum(" rewarded of " in text.get_text() for text in shown) == n == len(figure.axes)
    whole = figure.bbox
    for text in shown:
        box = text.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 + 1 and whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1, text
    plots.plt.close(figure)


def test_cards_of_broken_and_differently_shaped_pictures(small_log, tmp_path):
    Image.new("RGB", (160, 90)).save(tmp_path / "wide.png")
    Image.new("RGB", (90, 400)).save(tmp_path / "tall.png")
    title = small_log.artworks["title_id"][0].as_py()
    row = small_log.titles["title_id"].to_pylist().index(title)
    images = [str(tmp_path / name) for name in ("wide.png", "tall.png", "none.png")]
    figure = plots.cards(changed(small_log, image=images), row)
    said = [text.get_text() for text in figure.findobj(plots.matplotlib.text.Text)]
    assert any("cannot be" in text for text in said)
    plots.save(figure, tmp_path, "cards")
