"""The fictional world: its catalogue keeps its promises, its propensities are exact, its truth is what happens."""

import dataclasses
import inspect
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.stats

from artlib import data, files, fingerprint
from artlib.data import History, Log, LogError, contract
from artlib.worlds import fiction, fiction_catalogue, fiction_text, open_log, registry


@pytest.fixture(scope="module")
def world() -> Log:
    return fiction.build(n_users=1500, n_titles=240, n_train=10_000, n_validation=1000, n_test=5000, seed=5)


@pytest.fixture(scope="module")
def scenes(world) -> list[tuple[int, str]]:
    """(theme, scene) of each artwork: what its caption opens with."""
    theme_of = {scene: theme for theme, own in enumerate(fiction_text.text().scenes) for scene in own}
    first = re.compile("|".join(sorted(map(re.escape, theme_of), key=len, reverse=True)))
    found = []
    for caption in world.artworks["caption"].to_pylist():
        scene = first.match(caption[0].lower() + caption[1:])
        assert scene, caption
        found.append((theme_of[scene[0]], scene[0]))
    return found


def has_word(text: str, stem: str) -> bool:
    """Whether a word of the text, or several in a row, begin with the stem."""
    return bool(re.search(rf"\b{re.escape(stem.lower())}", text.lower()))


def value(log: Log, policy: np.ndarray, rows: np.ndarray) -> float:
    return float((log.expected_reward() * policy).sum(axis=1)[rows].mean())


# What the catalogue is written from


def test_there_are_enough_themes_and_scenes_and_no_scene_is_there_twice():
    text = fiction_text.text()
    assert len(text.names) >= 24 and len(set(text.names)) == len(set(text.genres)) == len(text.names)
    assert min(map(len, text.scenes)) >= 40
    everything = [" ".join(scene.lower().split()) for own in text.scenes for scene in own]
    assert len(set(everything)) == len(everything)
    assert len(text.compositions) >= 5 and len(text.palettes) >= 5 and len(text.cast) >= 20
    assert all(len(p) == 3 and all(re.fullmatch("#[0-9a-fA-F]{6}", c) for c in p) for p in text.palettes.values())


def test_no_scene_names_its_theme_or_genre():
    text = fiction_text.text()
    for name, genre, forbidden, own in zip(text.names, text.genres, text.forbidden, text.scenes, strict=True):
        words = {name, *genre.split(), *forbidden}
        words |= {word.removesuffix("s") for word in words}
        assert not [(word, scene) for scene in own for word in words if has_word(scene, word)]


# What the log holds


def test_no_caption_names_its_theme_or_genre(world, scenes):
    text = fiction_text.text()
    for caption, (theme, _) in zip(world.artworks["caption"].to_pylist(), scenes, strict=True):
        words = [text.names[theme], *text.genres[theme].split(), *text.forbidden[theme]]
        assert not [word for word in words if has_word(caption, word)], caption


def test_captions_of_validation_and_test_use_scenes_never_seen_in_training(world, scenes):
    rows = {name: np.unique((arrays := world.split(name).arrays()).candidates[arrays.mask]) for name in contract.SPLITS}
    seen = {name: {scenes[row] for row in own} for name, own in rows.items()}
    seen["train"] |= {scenes[row] for row in np.unique(world.split("train").arrays().candidates) if row >= 0}
    assert all(len(own) > 50 for own in seen.values())
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    # The earlier period offers warm titles of every split to the production policy, which reads no captions.
    text = world.artworks["caption"].to_pylist()
    assert not {text[row] for row in rows["train"]} & {text[row] for row in rows["test"]}


def test_every_caption_shows_a_theme_of_its_title(world, scenes):
    genres = dict(zip(world.titles["title_id"].to_pylist(), world.titles["genres"].to_pylist(), strict=True))
    shown = {}
    for title, (theme, _) in zip(world.artworks["title_id"].to_pylist(), scenes, strict=True):
        shown.setdefault(title, set()).add(fiction_text.text().genres[theme])
    assert [fiction_text.shown(caption) for caption in world.artworks["caption"].to_pylist()] == [
        (fiction_text.text().genres[theme], scene.lower()) for theme, scene in scenes
    ]
    assert all(set(genres[title]) <= shown[title] and len(shown[title]) >= 2 for title in shown)


def test_candidate_counts_from_three_to_eight_all_occur(world):
    assert set(world.arrays().mask.sum(axis=1)) == set(range(3, 9))


def test_a_fifth_of_the_test_titles_is_cold(world):
    test = world.split("test")
    ids = np.unique(test.impressions["title_id"].to_numpy())
    cold = np.unique(
        test.impressions["title_id"].to_numpy()[
            world.cold()[np.flatnonzero(pc.equal(world.impressions["split"], "test").to_numpy())]
        ]
    )
    assert len(cold) / len(ids) == pytest.approx(0.2, abs=0.02)
    assert not pc.is_in(pc.unique(world.histories["title_id"]), value_set=pa.array(cold)).to_numpy(False).any()


def test_no_title_is_in_two_splits_and_time_runs_forward(world):
    titles = [set(world.split(name).impressions["title_id"].to_pylist()) for name in contract.SPLITS]
    assert not titles[0] & titles[1] and not titles[0] & titles[2] and not titles[1] & titles[2]
    spans = [pc.min_max(world.split(name).impressions["timestamp"]).as_py() for name in contract.SPLITS]
    spans.insert(0, pc.min_max(world.earlier["timestamp"]).as_py())
    assert all(before["max"] < after["min"] for before, after in zip(spans, spans[1:], strict=False))


def test_play_rate_is_between_5_and_25_percent_in_every_period(world):
    for log in (world, *map(world.split, contract.SPLITS)):
        assert 0.05 < log.arrays().reward.mean() < 0.25
    assert 0.05 < world.arrays("earlier").reward.mean() < 0.25
    assert set(world.arrays().reward) == {0, 1}


@pytest.mark.parametrize("genres", fiction.KINDS)
def test_a_caption_is_taken_apart_as_it_was_put_together(genres):
    words, rng = fiction_text.text(), np.random.default_rng(3)
    catalogue = fiction_catalogue.draw(fiction.KINDS[genres], 60, rng)
    for row, caption in enumerate(catalogue.captions):
        said = fiction_text.read(caption)
        assert said.scene.lower() in [scene.lower() for scene in words.scenes[catalogue.theme[row]]]
        assert said.tone == (words.tones[catalogue.tone[row]] if genres == "broad" else "")
        assert said.actor == (words.cast[catalogue.actor[row]] if catalogue.actor[row] >= 0 else "")
        assert said.palette in words.palettes.values() and said.composition in words.compositions
        assert (
            f"{said.scene}. " + (f"{said.look}. " if said.look else "")
            == caption[: caption.lower().index(said.composition + " in ")]
        )
    assert fiction_text.read("something else") is None


# Bytes


def test_one_seed_gives_the_same_bytes_and_another_gives_others(tmp_path):
    sizes = {"n_users": 80, "n_titles": 40, "n_train": 150, "n_validation": 30, "n_test": 30}
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        fiction.build(**sizes, seed=seed).save(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 8
    digest = {run: {name: files.sha256(tmp_path / run / name) for name in names} for run in ("one", "same", "other")}
    assert digest["one"] == digest["same"]
    assert all(digest["one"][name] != digest["other"][name] for name in names)


@pytest.mark.parametrize("name, number", [("n_users", 0), ("n_titles", 39), ("n_train", 0), ("n_test", -1)])
def test_impossible_size_is_refused(name, number):
    with pytest.raises(ValueError, match=f"{name} = {number}"):
        fiction.build(**{name: number})


def test_opening_again_builds_only_when_something_changed(tmp_path, monkeypatch):
    sizes = {"n_users": 80, "n_titles": 40, "n_train": 150, "n_validation": 30, "n_test": 30, "seed": 1}
    first = open_log(tmp_path / "log", "fiction", nothing_of_fictions=3, **sizes)
    calls, build = [], fiction.build
    # As `inspect.signature` sees it, it still is the world's build.

    def counted(**arguments):
        calls.append(arguments)
        return build(**arguments)

    counted.__signature__ = inspect.signature(build)
    counted.__module__ = build.__module__
    monkeypatch.setitem(registry._in_this_folder(), "fiction", dataclasses.replace(fiction.WORLD, build=counted))
    assert open_log(tmp_path / "log", "fiction", **sizes).manifest == first.manifest and not calls
    assert open_log(tmp_path / "log", "fiction", **(sizes | {"seed": 2})).manifest["seed"] == 2 and len(calls) == 1
    monkeypatch.setattr(fingerprint, "code", lambda *_: "edited")  # other constants make another world
    again = open_log(tmp_path / "log", "fiction", **(sizes | {"seed": 2}))
    assert again.manifest["fingerprint"]["code"] == "edited"
    assert len(calls) == 2


def test_own_log_is_validated_and_taken(small_log, tmp_path):
    small_log.save(tmp_path / "own")
    log = open_log(tmp_path / "log", "own", data=str(tmp_path / "own"))
    assert log.impressions.to_pylist() == small_log.impressions.to_pylist()
    assert Log.load(tmp_path / "log").manifest["world"] == "fiction"
    with pytest.raises(LogError, match="world 'own' needs the parameter data"):
        open_log(tmp_path / "log", "own")
    with pytest.raises(LogError, match="world 'elsewhere' is not one of fiction, movielens, own, upworthy"):
        open_log(tmp_path / "log", "elsewhere")


def test_a_folder_with_other_peoples_files_is_not_wiped_and_nothing_built_for_it(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("precious")
    monkeypatch.setattr(Log, "validate", lambda *_: pytest.fail("a log was built first"))
    with pytest.raises(LogError, match="holds other files than a log's, notes.txt among them, which would be lost"):
        open_log(tmp_path, "fiction")
    assert (tmp_path / "notes.txt").read_text() == "precious"


# Probabilities


def test_propensity_is_productions_probability_of_what_was_shown(world):
    arrays = world.arrays()
    np.testing.assert_array_equal(arrays.propensity, arrays.production[np.arange(len(arrays)), arrays.shown])
    np.testing.assert_allclose(arrays.production.sum(axis=1), 1)
    assert ((arrays.production > 0) == arrays.mask).all()
    early = world.arrays("earlier")
    np.testing.assert_allclose(early.propensity, 1 / early.mask.sum(axis=1))


def test_shown_frequencies_fit_the_propensities(world):
    """Chi-square over places, and over classes of equal probability; fixed seed, so it either always holds or never."""
    arrays = world.arrays()
    hit = np.arange(arrays.mask.shape[1]) == arrays.shown[:, None]
    for k in range(3, 9):
        rows = arrays.mask.sum(axis=1) == k
        observed, expected = hit[rows, :k].sum(axis=0), arrays.production[rows, :k].sum(axis=0)
        assert scipy.stats.chisquare(observed, expected).pvalue > 0.001
    p = arrays.production[arrays.mask]
    bins = np.digitize(p, np.quantile(p, np.linspace(0.05, 0.95, 19)))
    variance = np.bincount(bins, p * (1 - p))
    z2 = (np.bincount(bins, hit[arrays.mask]) - np.bincount(bins, p)) ** 2 / variance
    assert scipy.stats.chi2.sf(z2.sum(), len(z2)) > 0.001
    # The same test finds propensities that are off by a tenth.
    wrong = 0.9 * p + 0.1 / arrays.mask.sum(axis=1).mean()
    z2 = (np.bincount(bins, hit[arrays.mask]) - np.bincount(bins, wrong)) ** 2 / variance
    assert scipy.stats.chi2.sf(z2.sum(), len(z2)) < 0.001


def test_truth_is_the_rate_at_which_members_play(world):
    arrays = world.arrays()
    p = world.expected_reward()[np.arange(len(arrays)), arrays.shown]
    bins = np.digitize(p, np.quantile(p, np.linspace(0.05, 0.95, 19)))
    z2 = (np.bincount(bins, arrays.reward) - np.bincount(bins, p)) ** 2 / np.bincount(bins, p * (1 - p))
    assert scipy.stats.chi2.sf(z2.sum(), len(z2)) > 0.001
    assert np.bincount(bins, p)[-1] / np.bincount(bins)[-1] > 4 * np.bincount(bins, p)[0] / np.bincount(bins)[0]


def test_production_beats_chance_on_warm_titles_and_not_on_cold_ones(world):
    test, cold = world.split("test"), world.cold()[pc.equal(world.impressions["split"], "test").to_numpy()]
    arrays = test.arrays()
    uniform = arrays.mask / arrays.mask.sum(axis=1, keepdims=True)
    best = np.eye(arrays.mask.shape[1])[test.expected_reward().argmax(axis=1)]
    assert value(test, arrays.production, ~cold) > 1.05 * value(test, uniform, ~cold)
    assert value(test, best, ~cold) > 1.2 * value(test, arrays.production, ~cold)
    assert value(test, arrays.production, cold) == pytest.approx(value(test, uniform, cold), rel=0.01)


def test_liked_themes_show_in_histories(world, scenes):
    """What a member can be told by: the genres watched before say which artwork the member plays for."""
    test = world.split("test")
    arrays, names = test.arrays(), data.genre_names(test.titles)
    profile = History(test.titles, test.histories).genre_profile(test.impressions)
    column = np.array([names.index(fiction_text.text().genres[theme]) for theme, _ in scenes])
    score = np.where(arrays.mask, profile[np.arange(len(arrays))[:, None], column[arrays.candidates]], -1)
    policy = np.eye(arrays.mask.shape[1])[score.argmax(axis=1)]
    everywhere = np.ones(len(arrays), dtype=bool)
    assert value(test, policy, everywhere) > 1.1 * value(test, arrays.production, everywhere)


# Broad genres: what genres do not tell, histories and captions do


@pytest.fixture(scope="module")
def broad() -> Log:
    return fiction.build(
        n_users=1500, n_titles=240, n_train=10_000, n_validation=1000, n_test=4000, seed=5, genres="broad"
    )


def captions_of(log: Log, split: str) -> list[str]:
    arrays, text = log.split(split).arrays(), log.artworks["caption"].to_pylist()
    return [text[row] for row in np.unique(arrays.candidates[arrays.mask])]


def test_no_look_or_telling_names_a_tone_and_no_look_a_theme():
    text = fiction_text.text()
    assert len(text.tones) == len(set(text.tones)) >= 6
    assert min(map(len, text.looks)) >= 24 and min(map(len, text.tellings)) >= 8
    everything = [phrase for own in (*text.looks, *text.tellings) for phrase in own]
    assert len(set(everything)) == len(everything)
    words = {word for own in text.avoided for word in own} | set(text.tones)
    assert not [(word, phrase) for phrase in everything for word in words if has_word(phrase, word)]
    themes = {word for own in text.forbidden for word in own} | set(text.names)
    themes |= {word for genre in (*text.genres, *text.broad) for word in genre.split() if len(word) > 3}
    assert not [(word, look) for own in text.looks for look in own for word in themes if has_word(look, word)]


def test_broad_genres_are_few_and_cover_several_themes_each(broad):
    names = data.genre_names(broad.titles)
    assert 6 <= len(names) <= 10
    assert min(fiction_text.text().broad.count(name) for name in names) >= 2
    assert max(map(len, broad.titles["genres"].to_pylist())) <= 2


def test_tones_of_validation_and_test_are_worded_as_never_in_training(broad):
    looks = [look for own in fiction_text.text().looks for look in own]
    seen = {
        split: {look for look in looks for caption in captions_of(broad, split) if look in caption.lower()}
        for split in contract.SPLITS
    }
    assert all(len(found) > 20 for found in seen.values())
    assert not seen["train"] & seen["test"] and not seen["train"] & seen["validation"]
    assert all(fiction_text.shown(caption)[0] in fiction_text.text().broad for caption in captions_of(broad, "test"))


def test_synopses_tell_a_tone_and_the_cast_that_captions_show(broad):
    text = fiction_text.text()
    tellings = [telling for own in text.tellings for telling in own]
    synopsis = dict(zip(broad.titles["title_id"].to_pylist(), broad.titles["synopsis"].to_pylist(), strict=True))
    assert all(sum(telling in told for telling in tellings) == 1 for told in synopsis.values())
    for title, caption in zip(
        broad.artworks["title_id"].to_pylist(), broad.artworks["caption"].to_pylist(), strict=True
    ):
        _, found, actor = caption.rpartition(", with ")
        assert not found or actor.removesuffix(".") in synopsis[title]


def test_every_kind_of_reading_is_worth_something_and_genres_are_worth_little(broad):
    table = fiction.worth(broad)
    known = table["everywhere"]
    steps = ["the genres of themes", "themes", "themes and tones", "themes, tones and cast", "everything"]
    assert (known[steps].diff().dropna() > 0.05).all()
    assert known["the genres of themes"] < 0.25 * known["themes"]
    assert known["nothing"] < known["production"] == 0 < known["each artwork's average"]
    # Production knows warm titles, nothing of cold ones; ids say nothing of these at all.
    assert table.loc["production", "cold titles"] == 0 and abs(table.loc["nothing", "cold titles"]) < 0.01
    assert table.loc["each artwork's average", "cold titles"] == pytest.approx(table.loc["nothing", "cold titles"])
    read = table["tastes read off histories"].dropna()
    assert (read < known[read.index]).all() and read["themes, tones and cast"] > 0.5 * known["everything"]


def test_with_fine_genres_the_genre_profile_is_worth_nearly_everything(world):
    table = fiction.worth(world)
    known = table["everywhere"]
    assert known["the genres of themes"] == known["themes"] > 0.8 * known["everything"]
    assert table.loc["themes", "tastes read off histories"] > 0.6 * known["everything"]


def test_worth_is_measured_by_the_tastes_that_made_the_log(broad):
    other = dataclasses.replace(broad, manifest=broad.manifest | {"seed": 6})
    assert fiction.worth(other).loc["themes, tones and cast", "everywhere"] < 0.1
