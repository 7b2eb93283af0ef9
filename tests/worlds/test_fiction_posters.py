"""Posters drawn from captions: always the same, each composition its own, nothing cut off, and files of them."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from artlib.data import Log, LogError, pictures
from artlib.worlds import (
    draw_pictures,
    fiction,
    fiction_posters,
    fiction_text,
    movielens_posters,
    movielens_text,
    poster,
)
from artlib.worlds.fiction_layouts import LAYOUTS

WORDS = fiction_text.text()


def caption(scene="a frog on a pad", look="", composition="wide shot", palette="navy and gold", actor="") -> str:
    parts = [scene.capitalize(), look.capitalize(), f"{composition.capitalize()} in {palette}"]
    return ". ".join(filter(None, parts)) + (f", with {actor}." if actor else ".")


def colours(picture) -> set[str]:
    return {"#" + bytes(pixel).hex() for _, pixel in picture.getcolors(picture.width * picture.height)}


def test_one_caption_gives_one_picture_in_every_process():
    captions = [caption(WORDS.scenes[0][0], WORDS.looks[n][0], name) for n, name in enumerate(WORDS.compositions[:6])]
    captions += [caption(composition=name) for name in WORDS.compositions]
    code = """
import hashlib, sys
from artlib.worlds import fiction_posters
pictures = [fiction_posters.draw(caption).tobytes() for caption in sys.argv[1:]]
print(hashlib.sha256(b"".join(pictures)).hexdigest())
"""
    other = subprocess.run([sys.executable, "-c", code, *captions], capture_output=True, text=True, check=True).stdout
    for _ in range(2):
        drawn = b"".join(fiction_posters.draw(one).tobytes() for one in captions)
        assert hashlib.sha256(drawn).hexdigest() == other.strip()


def test_every_composition_and_every_tone_looks_different():
    assert set(LAYOUTS) == set(WORDS.compositions)
    drawn = [fiction_posters.draw(caption(composition=name)).tobytes() for name in WORDS.compositions]
    assert len(set(drawn)) == len(drawn)
    toned = [np.asarray(fiction_posters.draw(caption(look=own[0])), int) for own in WORDS.looks]
    lower = {part[250:].tobytes() for part in toned}  # below all words
    assert len(lower) == len(WORDS.tones)


def test_its_colours_are_those_of_the_palette():
    for n, (name, own) in enumerate(WORDS.palettes.items()):
        for composition in WORDS.compositions[n % 6 :: 6]:  # each with six or seven of the palettes
            drawn = fiction_posters.draw(caption(composition=composition, palette=name))
            assert set(own) <= colours(drawn), (name, composition)


def test_no_words_leave_their_box_or_can_not_be_read(monkeypatch):
    scenes = sorted((scene for own in WORDS.scenes for scene in own), key=len)[-3:]
    look = max((look for own in WORDS.looks for look in own), key=len)
    actor = max(WORDS.cast, key=len)
    set_ = []
    words = poster.Sheet.words

    def noted(sheet, box, parts, centred=False, low=False):
        words(sheet, box, parts, centred, low)
        set_.append((box, sheet._set, " ".join(text for text, *_ in parts)))

    monkeypatch.setattr(poster.Sheet, "words", noted)
    for composition in WORDS.compositions:
        for scene in [*scenes, "stepping sandwiched physiotherapists"]:
            fiction_posters.draw(caption(scene, look, composition, actor=actor))
    assert len(set_) == 4 * len(WORDS.compositions)
    for box, lines, text in set_:
        left, top, right, bottom = (edge * poster.SIZE[0] for edge in box)
        assert " ".join(line for _, _, line, _, _ in lines) == text  # all of it
        for x, y, line, size, _ in lines:
            *corner, wide, high = poster._font(size).getbbox(line)
            assert left - 2 <= x + corner[0] and x + wide <= right + 2, line
            assert top - 2 <= y and y + high <= bottom + 2, line
            assert size >= 10, line


def test_letters_can_be_told_from_their_ground():
    for own in WORDS.palettes.values():
        for ground in own:
            assert poster.contrast(ground, poster.ink(ground, own)) >= 4.5


def test_captions_of_other_worlds_are_not_drawn():
    assert fiction_posters.draw("Something else.") is None
    assert fiction_posters.draw("A frog. Wide shot in no colours.") is None
    assert movielens_posters.draw(caption()) is None
    assert fiction_posters.draw("A scene about robot, in plain daylight.") is None


def test_movielens_draws_what_its_captions_say():
    said = "Everything here turns on cat and mouse, café and dog, with hollow eyes behind a cracked mirror."
    assert movielens_text.parts(said) == (["cat and mouse", "café", "dog"], "with hollow eyes behind a cracked mirror")
    one, other = (movielens_posters.draw(text) for text in (said, said.replace("dog", "cow")))
    assert one.size == poster.SIZE and one.tobytes() != other.tobytes()
    assert one.tobytes() == movielens_posters.draw(said).tobytes()
    assert movielens_posters.draw(said.replace("dog", "犬")) is None  # the letters have no such
    assert all(movielens_posters.draw(f"A glimpse of {'x' * n}, in plain daylight.") for n in (1, 30))


def test_pictures_written_as_files_are_found_when_the_log_is_read_again(tmp_path):
    made = fiction.build(n_users=40, n_titles=40, n_train=60, n_validation=20, n_test=20)
    log = draw_pictures(made, tmp_path / "pictures")
    log.save(tmp_path / "log")
    log = Log.load(tmp_path / "log", validate=False)
    log.validate()  # opens every picture
    assert made.artworks["image"].null_count == len(made.artworks) == len(list((tmp_path / "pictures").iterdir()))
    assert log.artworks["caption"].equals(made.artworks["caption"])
    for row in (0, 57):
        path = pictures.path(log.folder, log.artworks["image"][row].as_py())
        drawn = fiction_posters.draw(made.artworks["caption"][row].as_py())
        assert pictures.read(path).tobytes() == drawn.tobytes()
    again = draw_pictures(log, tmp_path / "elsewhere")  # those that there are, are kept
    assert again.artworks.equals(log.artworks) and not (tmp_path / "elsewhere").exists()


def test_a_world_that_does_not_draw_says_so(small_log, tmp_path):
    with pytest.raises(LogError, match="world 'own' does not draw"):
        draw_pictures(dataclasses.replace(small_log, manifest={"world": "own"}), tmp_path)
