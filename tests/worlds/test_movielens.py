"""The MovieLens world: on a hand-made edition with another edition's quirks, and on the real one when it is here."""

import gzip
import json
import re
import shutil

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp

from artlib import data, files
from artlib.data import History, Log, LogError, contract
from artlib.worlds import movielens, movielens_text, open_log, sources, tmdb

SIZES = {"n_train": 300, "n_validation": 80, "n_test": 100}
GENRES = {  # invented films carry these keywords
    "Horror": ["old crypt", "screaming", "pale child", "cellar", "black cat", "grave robber"],
    "Comedy": ["pie fight", "wrong hotel", "clumsy waiter", "twin cousins", "banana", "practical joke"],
    "Sci-Fi": ["moon base", "clone", "starship", "time loop", "android maid", "wormhole"],
    "Western": ["dusty saloon", "stagecoach", "cattle drive", "outlaw gang", "gold claim", "lasso"],
}


def films(rng) -> list[dict]:
    """90 films of one to three genres; the last ten are rated late only."""
    rows = []
    for i in range(90):
        genres = rng.choice(list(GENRES), size=rng.integers(1, 4), replace=False).tolist()
        keywords = [word for genre in genres for word in rng.choice(GENRES[genre], size=4, replace=False).tolist()]
        rows.append(
            {
                "movieId": 3 * i + 1,
                "tmdb": 1000 + i,
                "title": f"Film {i} ({1950 + i % 60})",
                "genres": genres,
                "keywords": keywords,
                "overview": f"Some\r\n  people in  number {i}.",
            }
        )
    rows[0] |= {"title": "Third Lamp, The (1949)"}
    rows[1] |= {"title": "Untimely, A"}
    rows[2] |= {"title": "Lanterne, La (Small Lamp, The) (1962)"}
    rows[3] |= {"title": "Moon Base (1999)", "genres": ["Sci-Fi"], "keywords": GENRES["Sci-Fi"]}
    rows[4] |= {"title": "Serial (2001-2004) "}
    rows[5] |= {"genres": ["(no genres listed)"]}
    rows[6] |= {"overview": ""}
    rows[7] |= {"keywords": ["sequel", "old crypt", "cellar"]}
    rows[8] |= {"tmdb": None}
    rows[9] |= {"genres": ["Telenovela", "IMAX"]}
    return rows


def ratings(rng, rows) -> pd.DataFrame:
    """60 members who rate about 30 films each, within a month that starts anywhere in ten years."""
    parts = []
    for user in range(60):
        start = 1_000_000_000 + user * 5_000_000
        movies = [row["movieId"] for row in (rows if user >= 50 else rows[:80])]
        movies = rng.choice(movies, size=30, replace=False)
        parts.append(
            pd.DataFrame(
                {
                    "userId": user + 1,
                    "movieId": movies,
                    "rating": rng.integers(1, 11, 30) / 2,
                    "timestamp": start + rng.integers(0, 2_000_000, 30) // 500 * 500,
                }
            )
        )
    return pd.concat(parts).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def edition(tmp_path_factory):
    """Gzip and plain, CRLF and LF, a byte order mark, JSON and Python lists, duplicate and shifted ids, a decoy."""
    folder, rng = tmp_path_factory.mktemp("edition"), np.random.default_rng(3)
    rows = films(rng)
    (folder / "movielens").mkdir()
    (folder / "tmdb").mkdir()
    with gzip.open(folder / "movielens" / "ratings.csv.gz", "wt", newline="") as file:
        ratings(rng, rows).to_csv(file, index=False, lineterminator="\r\n")
    movies = pd.DataFrame({k: [row[k] for row in rows] for k in ("movieId", "title")})
    movies["genres"] = ["|".join(row["genres"]) for row in rows]
    movies.to_csv(folder / "movielens" / "movies.csv", index=False, encoding="utf-8-sig")
    links = pd.DataFrame({"movieId": [r["movieId"] for r in rows], "imdbId": 7, "tmdbId": [r["tmdb"] for r in rows]})
    links.to_csv(folder / "movielens" / "links.csv", index=False)  # ids as 1000.0
    some, others = ([r for r in rows if r["tmdb"] and r["tmdb"] % 2 == odd] for odd in (1, 0))
    pd.DataFrame(
        {
            "id": [r["tmdb"] for r in some],
            "overview": [r["overview"] for r in some],
            "keywords": [json.dumps([{"id": 1, "name": name} for name in r["keywords"]]) for r in some],
        }
    ).to_csv(folder / "tmdb" / "both.csv", index=False)
    pd.DataFrame(
        {
            "id": [r["tmdb"] for r in others] + ["1997-08-20"],
            "overview": [r["overview"] for r in others] + ["shifted"],
            "release_date": "12/15/95",
        }
    ).to_csv(folder / "tmdb" / "overviews.csv.gz", index=False)
    pd.DataFrame(
        {
            # An empty row, then the one that counts, then another that comes too late.
            "id": [r["tmdb"] for r in others] * 3,
            "keywords": ["[]"] * len(others)
            + [repr([{"id": 1, "name": name} for name in r["keywords"]]) for r in others]
            + ["['first late', 'second late', 'third late']"] * len(others),
        }
    ).to_csv(folder / "tmdb" / "words.csv", index=False)
    (folder / "tmdb" / "credits.csv").write_text("movie_id,cast\n1000,nobody\n")
    return folder


@pytest.fixture(scope="module")
def log(edition) -> Log:
    built = movielens.build(edition, **SIZES, seed=1)
    built.validate()
    return built


@pytest.fixture
def copy(edition, tmp_path):
    """An edition to damage, its ratings unpacked."""
    folder = shutil.copytree(edition, tmp_path / "data")
    packed = folder / "movielens" / "ratings.csv.gz"
    (folder / "movielens" / "ratings.csv").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    return folder


def titles(log) -> dict[str, dict]:
    return {row["title_id"]: row for row in log.titles.to_pylist()}


# Reading


def test_titles_carry_name_year_genres_and_synopsis(log):
    known = titles(log)
    said = {key: (known[key]["name"], known[key]["year"]) for key in ("m1", "m4", "m7", "m13", "m16") if key in known}
    assert said == {
        "m1": ("The Third Lamp", 1949),
        "m4": ("A Untimely", None),
        "m7": ("La Lanterne (The Small Lamp)", 1962),
        "m13": ("Serial", 2001),
    }
    assert known["m28"]["genres"] == ["Telenovela"]
    assert all(re.fullmatch(r"Some people in number \d+\.", row["synopsis"]) for row in known.values())


def test_titles_without_what_they_need_are_dropped_and_counted(log):
    counts = log.manifest["source"]["counts"]
    assert {name: n for name, n in counts.items() if name.startswith("titles_w")} == {
        "titles_without_tmdb_id": 1,
        "titles_without_genres": 1,
        "titles_without_overview": 1,
        "titles_with_too_few_keywords": 1,
    }
    assert not {"m16", "m19", "m22", "m25"} & set(titles(log))
    assert counts["titles"] == len(log.titles) == counts["titles_rated"] - 4
    assert counts["ratings_in_file"] == 1800 and counts["users"] == 60


def test_all_metadata_files_are_joined_and_a_decoy_is_not(log):
    used = log.manifest["source"]["files"]
    assert used == ["ratings.csv.gz", "movies.csv", "links.csv", "both.csv", "overviews.csv.gz", "words.csv"]


def test_histories_are_the_members_ratings(log, edition):
    frame = pd.read_csv(edition / "movielens" / "ratings.csv.gz")
    frame = frame[("m" + frame["movieId"].astype(str)).isin(set(titles(log)))]
    expected = {(f"u{r.userId}", f"m{r.movieId}"): (r.timestamp, r.rating / 5) for r in frame.itertuples(index=False)}
    last = {}
    for row in log.impressions.to_pylist() + log.earlier.to_pylist():
        assert row["timestamp"].timestamp() == expected[row["user_id"], row["title_id"]][0]
        last[row["user_id"]] = max(last.get(row["user_id"], 0), row["timestamp"].timestamp())
    found = {
        (r["user_id"], r["title_id"]): (r["timestamp"].timestamp(), r["weight"]) for r in log.histories.to_pylist()
    }
    assert found == {pair: cell for pair, cell in expected.items() if cell[0] < last.get(pair[0], 0)}


def test_edition_in_its_own_folder_and_members_drawn_from_a_large_one(copy):
    for path in (copy / "movielens").iterdir():
        path.rename(copy / path.name)
    small = movielens.build(copy, **SIZES, n_users=40, seed=1)
    assert small.manifest["source"]["counts"]["users"] == 40
    assert small.manifest["source"]["counts"]["users_in_file"] == 60
    assert len(pc.unique(small.histories["user_id"])) <= 40


def test_less_data_than_asked_for_is_taken_whole_and_said(edition):
    taken = movielens.build(edition, seed=1).manifest["taken"]
    assert taken["asked"] == {"earlier": 20_000, "train": 20_000, "validation": 3000, "test": 2000}
    assert 0 < taken["test"] < 2000 and 0 < taken["train"] < 1800


# Captions


def test_captions_are_of_the_titles_own_keywords_and_never_name_it(log):
    own = {row["movieId"]: row["keywords"] for row in films(np.random.default_rng(3))}
    known, seen = titles(log), {}
    for row in log.artworks.to_pylist():
        keywords = own[int(row["title_id"][1:])]
        shown = [word for word in keywords if word in row["caption"]]
        assert 1 <= len(shown) and row["caption"].endswith(".") and "{" not in row["caption"]
        assert not movielens_text.names(row["caption"], known[row["title_id"]]["name"])
        seen.setdefault(row["title_id"], []).append(set(shown))
    assert all(3 <= len(artworks) <= 6 for artworks in seen.values())
    assert any("moon base" in row["caption"] for row in log.artworks.to_pylist())
    assert not any("moon base" in row["caption"] for row in log.artworks.to_pylist() if row["title_id"] == "m10")
    assert not any("sequel" in row["caption"] for row in log.artworks.to_pylist())


def test_pictures_of_a_title_show_different_keywords_that_suit_their_genre():
    genres = [["Horror"], ["Comedy"], ["Horror", "Comedy"]] * 4
    keywords = [GENRES["Horror"][:4], GENRES["Comedy"][:4], GENRES["Horror"][:2] + GENRES["Comedy"][:2]] * 4
    artworks, left = movielens_text.compose(["x"] * 12, genres, keywords, np.random.default_rng(0))
    assert left.all()
    for title in range(12):
        own = [artwork for artwork in artworks if artwork.title == title]
        shown = [word for artwork in own for word in artwork.keywords]
        assert len(shown) == len(set(shown)) and set(shown) == set(keywords[title])
        assert {artwork.genre for artwork in own} == set(genres[title])
        for artwork in own:
            assert artwork.keywords[0] in GENRES[artwork.genre]
            genre, mood = movielens_text.shown(artwork.caption)
            assert genre == artwork.genre and mood in movielens_text.words()["moods"][genre]


def test_title_that_every_caption_would_name_is_left_out():
    every = ["a", "of", "x"]  # no template is without one of the two
    captions = {template.format(keywords="k", mood="m") for template in movielens_text.words()["templates"]}
    assert all(movielens_text.names(caption, "K") for caption in captions)
    artworks, left = movielens_text.compose(
        ["Old Crypt", "b"], [["Horror"]] * 2, [["old crypt"] * 3, every], np.random.default_rng(0)
    )
    assert left.tolist() == [False, True] and {artwork.title for artwork in artworks} == {0}


@pytest.mark.parametrize(
    "text, name, answer",
    [
        ("A picture of a third lamp.", "The Third Lamp", True),
        ("A picture of third lamps.", "The Third Lamp", False),
        ("Heat, seen from afar", "Heat", True),
        ("a heated room", "Heat", False),
        ("a small lamp", "La Lanterne (The Small Lamp)", False),
        ("the the", "The", True),
        ("a wide street", "$", False),
    ],
)
def test_naming_is_judged_word_by_word(text, name, answer):
    assert movielens_text.names(text, name) is answer


def test_every_mood_is_of_one_genre_and_does_not_say_it():
    moods = movielens_text.words()["moods"]
    everything = [mood for own in moods.values() for mood in own]
    assert len(set(everything)) == len(everything)
    assert not [mood for genre, own in moods.items() for mood in own if re.search(rf"\b{genre[:5]}", mood, re.I)]


# Impressions


def test_time_runs_forward_and_impressions_have_a_history(log):
    spans = [pc.min_max(log.split(name).impressions["timestamp"]).as_py() for name in contract.SPLITS]
    spans.insert(0, pc.min_max(log.earlier["timestamp"]).as_py())
    assert all(before["max"] <= after["min"] for before, after in zip(spans, spans[1:], strict=False))
    start, stop = History(log.titles, log.histories).spans(log.impressions)
    assert (stop - start).min() >= movielens.MIN_HISTORY
    pairs = log.impressions.select(["user_id", "title_id"]).to_pandas()
    assert not pairs.duplicated().any()


def test_members_take_turns(log):
    """Where a period has more than is asked for, nobody appears twice before everybody has appeared as often."""
    counts = pd.Series(log.split("train").impressions["user_id"].to_pylist()).value_counts()
    assert len(counts) >= 20 and counts.max() - counts.median() <= 1


def test_warm_and_cold_titles_both_occur(log):
    test = log.cold()[pc.equal(log.impressions["split"], "test").to_numpy()]
    assert 0.02 < test.mean() < 0.6


def test_play_rate_truth_and_propensities_hold_together(log):
    arrays, truth = log.arrays(), log.expected_reward()
    assert 0.05 < arrays.reward.mean() < 0.25
    np.testing.assert_array_equal(arrays.propensity, arrays.production[np.arange(len(arrays)), arrays.shown])
    p = truth[np.arange(len(arrays)), arrays.shown]
    assert abs(arrays.reward.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
    assert ((truth > 0) == arrays.mask).all() and truth.max() < 1
    early = log.arrays("earlier")
    np.testing.assert_allclose(early.propensity, 1 / early.mask.sum(axis=1))


def test_same_seed_gives_the_same_bytes_and_another_gives_others(edition, log, tmp_path):
    log.save(tmp_path / "one")
    movielens.build(edition, **SIZES, seed=1).save(tmp_path / "same")
    movielens.build(edition, **SIZES, seed=2).save(tmp_path / "other")
    one, same, other = (
        {path.name: files.sha256(path) for path in (tmp_path / run).iterdir()} for run in ("one", "same", "other")
    )
    assert one == same
    assert all(one[f"{name}.parquet"] != other[f"{name}.parquet"] for name in ("artworks", "impressions", "truth"))


def test_world_opens_by_name(edition, tmp_path):
    opened = open_log(tmp_path / "log", "movielens", data=str(edition), n_titles=5, **SIZES)
    assert opened.manifest["world"] == "movielens" and opened.manifest["fingerprint"]["build"]["n_train"] == "300"
    again = open_log(tmp_path / "log", "movielens", data=str(edition), n_titles=5, **SIZES)
    assert again.manifest == opened.manifest
    (edition / "more.csv").touch()
    again = open_log(tmp_path / "log", "movielens", data=str(edition), n_titles=5, **SIZES)
    assert again.manifest["fingerprint"]["source"] != opened.manifest["fingerprint"]["source"]
    assert again.manifest["source"] == opened.manifest["source"]  # what was read


# Tastes


def test_taste_is_what_a_member_rates_and_watches_more_than_others():
    likes = {0: [0, 1], 1: [2, 3]}  # the member's films, five stars the first of each
    frame = pd.DataFrame(
        [
            {"user": user, "title": title, "rating": 5.0 if title == own[0] else 1.0}
            for user, own in likes.items()
            for title in own
        ]
    )
    genres = np.eye(4)
    catalogue = movielens._Catalogue(
        genres=genres,
        keywords=sp.csr_matrix(genres),
        artworks=None,
        owner=None,
        lean=None,
        shows=None,
        quality=None,
        captions=[],
    )
    genre, keyword = movielens._tastes(frame, catalogue)
    assert genre[0, 0] > genre[0, 1] > genre[0, 3] > genre[0, 2]
    np.testing.assert_allclose(genre[0, [0, 1, 2, 3]], genre[1, [2, 3, 0, 1]], rtol=1e-5)
    np.testing.assert_allclose(genre, keyword, rtol=1e-5)


def test_base_gives_the_play_rate_that_is_wanted():
    logit = np.where(np.arange(40).reshape(10, 4) % 7, np.linspace(-3, 3, 40).reshape(10, 4), -np.inf)
    p = 1 / (1 + np.exp(-(movielens._solve_base(logit) + logit)))
    assert p[np.isfinite(logit)].mean() == pytest.approx(movielens.PLAY_RATE, abs=1e-9)


# Faults


def replace(path, row: int, old: str, new: str) -> None:
    """Change text in a data row (from 0) of a plain CSV file."""
    lines = path.read_text().splitlines(keepends=True)
    assert old in lines[row + 1]
    lines[row + 1] = lines[row + 1].replace(old, new, 1)
    path.write_text("".join(lines))


def broken(folder) -> str:
    with pytest.raises(LogError) as caught:
        movielens.build(folder, **SIZES)
    return str(caught.value)


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("rating", "many", "is not of type float64"),
        ("rating", "7.5", "is outside [0, 5]"),
        ("rating", "", "is outside [0, 5]"),
        ("userId", "me", "is not of type int64"),
        ("movieId", "1.5", "is not of type int64"),
        ("timestamp", "yesterday", "is not of type int64"),
        ("timestamp", "-5", "is no time in seconds since 1970"),
        ("timestamp", "1000000000000", "is no time in seconds since 1970"),
    ],
)
def test_wrong_rating_is_named_by_file_row_column_and_value(copy, column, value, words):
    path = copy / "movielens" / "ratings.csv"
    frame = pd.read_csv(path, dtype=str)
    frame.loc[17, column] = value
    frame.to_csv(path, index=False)
    said = broken(copy)
    assert f"ratings.csv row 17, column {column}: " in said and words in said and "; " in said
    assert (value or "nan") in said


def test_wrong_keywords_are_named(copy):
    path = copy / "tmdb" / "words.csv"
    frame = pd.read_csv(path)
    frame.loc[4, "keywords"] = "[{'id': 1, 'name': "
    frame.to_csv(path, index=False)
    said = broken(copy)
    assert "words.csv row 4, column keywords: \"[{'id': 1, 'name': \" is neither a JSON nor a Python list" in said


def test_wrong_link_and_empty_title_are_named(copy):
    replace(copy / "movielens" / "links.csv", 6, "1006.0", "tt1006")
    assert "links.csv row 6, column tmdbId: 'tt1006' is no number" in broken(copy)
    replace(copy / "movielens" / "movies.csv", 20, "Film 20 (1970)", "")
    assert "movies.csv row 20, column title: nan is empty" in broken(copy)


@pytest.mark.parametrize("file, column", [("ratings", "timestamp"), ("movies", "genres"), ("links", "tmdbId")])
def test_missing_column_is_named(copy, file, column):
    path = copy / "movielens" / f"{file}.csv"
    pd.read_csv(path).drop(columns=column).to_csv(path, index=False)
    assert f"{file}.csv: column {column} is missing" in broken(copy)


@pytest.mark.parametrize("file", ["ratings.csv", "movies.csv", "links.csv"])
def test_missing_file_is_named(copy, file):
    (copy / "movielens" / file).unlink()
    assert re.match(rf"{file} \(or {file}.gz\)( or \w+.dat \(or \w+.dat.gz\))? is in none of ", broken(copy))


def test_older_editions_are_read_and_their_films_found_by_name_and_year(copy):
    """ml-1m and ml-10m: .dat files in Latin-1, no links to TMDB."""
    place = copy / "movielens"
    films = pd.read_csv(place / "movies.csv")
    links = pd.read_csv(place / "links.csv").set_index("movieId")["tmdbId"]
    films.loc[10, "title"] = "Café Nº 1 (1960)"
    names = films["title"].str.replace(r"\s*\(.*", "", regex=True).replace({"Third Lamp, The": "The Third Lamp"})
    years = films["title"].str.extract(r"\((\d{4})\)")[0]
    told = pd.DataFrame({"id": films["movieId"].map(links), "title": names, "release_date": years + "-06-01"}).dropna()
    told.to_csv(copy / "tmdb" / "told.csv", index=False)
    ratings = pd.read_csv(place / "ratings.csv")
    for name, frame in (("movies", films), ("ratings", ratings)):
        lines = ["::".join(map(str, row)) for row in frame.itertuples(index=False)]
        (place / f"{name}.dat").write_bytes("\r\n".join([*lines, ""]).encode("latin-1"))
        (place / f"{name}.csv").unlink()
    (place / "links.csv").unlink()
    log = movielens.build(copy, **SIZES, seed=1)
    log.validate()
    known = set(log.titles["name"].to_pylist())
    assert {"The Third Lamp", "Café Nº 1"} <= known and len(known) > 60
    assert log.manifest["source"]["counts"]["ratings_in_file"] == len(ratings)
    lines = (place / "ratings.dat").read_bytes().splitlines()
    lines[3] = b"1::2::x::4"
    (place / "ratings.dat").write_bytes(b"\n".join(lines))
    assert "ratings.dat row 3, column rating: 'x' is not of type float64" in broken(copy)
    lines[3] = b"1::2::3"
    (place / "ratings.dat").write_bytes(b"\n".join(lines))
    assert re.search("ratings.dat row 3, .*has not 4 columns, separated by ::", broken(copy))


def test_two_films_of_one_name_and_year_are_found_alike(copy):
    pd.DataFrame({"id": [7, 8], "title": ["Twin", "Other"], "release_date": "1990-05-01"}).to_csv(
        copy / "tmdb" / "told.csv", index=False
    )
    films = pd.DataFrame({"name": ["Twin", "Twin", "Nobody"], "year": [1990, 1990, 1990]})
    assert tmdb.ids_by_name(copy / "tmdb", films).tolist()[:2] == [7, 7]
    assert np.isnan(tmdb.ids_by_name(copy / "tmdb", films).iloc[2])


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan"])
def test_a_film_may_have_the_name_of_nothing(copy, name):
    place = copy / "movielens" / "movies.csv"
    films = pd.read_csv(place)
    films["title"] = name
    films.to_csv(place, index=False)
    assert set(movielens.build(copy, **SIZES, seed=1).titles["name"].to_pylist()) == {name}


def test_missing_metadata_is_told(copy):
    (copy / "tmdb" / "both.csv").unlink()
    (copy / "tmdb" / "words.csv").unlink()
    assert "no CSV file has the columns id and keywords" in broken(copy)
    shutil.rmtree(copy / "tmdb")
    assert "tmdb is not a folder" in broken(copy)
    assert "is not a folder; give the folder of the data as the parameter data" in broken(copy / "nowhere")


def test_damaged_gzip_and_too_few_ratings_are_told(copy):
    path = copy / "movielens" / "ratings.csv"
    whole = pd.read_csv(path)
    whole.head(4).to_csv(path, index=False)
    assert "leaves no impression for the period 'earlier'" in broken(copy)
    packed = gzip.compress(whole.to_csv(index=False).encode())
    path.unlink()
    (copy / "movielens" / "ratings.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "ratings.csv.gz cannot be read" in broken(copy)


def test_data_folder_is_the_parameter_then_the_variable_then_the_neighbour(monkeypatch, tmp_path):
    monkeypatch.setenv("ARTLIB_DATA", str(tmp_path))
    assert sources.folder() == tmp_path
    (tmp_path / "x").mkdir()
    assert sources.folder(str(tmp_path / "x")) == tmp_path / "x"
    monkeypatch.delenv("ARTLIB_DATA")
    monkeypatch.setattr(sources, "ROOT", tmp_path / "repository")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert sources.folder() == tmp_path / "shared" / "data"


@pytest.mark.parametrize("name", [*SIZES, "n_users"])
def test_impossible_size_is_refused(edition, name):
    with pytest.raises(ValueError, match=f"{name} = 0"):
        movielens.build(edition, **{name: 0})


# The real edition


@pytest.fixture(scope="module")
def real(data_folder) -> Log:
    for name in ("movielens", "tmdb"):
        if not (data_folder / name).is_dir():
            pytest.skip(f"no real data: {data_folder / name} is not there")
    built = movielens.build(data_folder)
    built.validate()
    return built


def test_real_edition_fills_every_split_with_many_members_and_warm_and_cold_titles(real):
    assert {name: len(real.split(name).impressions) for name in contract.SPLITS} == {
        "train": 20_000,
        "validation": 3000,
        "test": 2000,
    }
    test = real.split("test").impressions
    cold = real.cold()[pc.equal(real.impressions["split"], "test").to_numpy()]
    assert len(pc.unique(test["user_id"])) >= 50 and 0.03 < cold.mean() < 0.5
    assert 0.05 < real.arrays().reward.mean() < 0.25
    known = titles(real)
    assert known["m318"]["name"].startswith("The Shawshank") and known["m318"]["year"] == 1994
    for row in real.artworks.to_pylist():
        assert not movielens_text.names(row["caption"], known[row["title_id"]]["name"])


def test_real_production_learns_and_histories_tell_more(real):
    """What a reader of captions and histories can reach lies well above production, and below the oracle."""
    test = real.split("test")
    arrays, truth, names = test.arrays(), test.expected_reward(), data.genre_names(real.titles)
    moods = {mood: genre for genre, own in movielens_text.words()["moods"].items() for mood in own}
    lean = np.array(
        [
            names.index(next(genre for mood, genre in moods.items() if caption.endswith(f"{mood}.")))
            for caption in real.artworks["caption"].to_pylist()
        ]
    )
    profile = History(real.titles, real.histories).genre_profile(test.impressions)
    lift = np.log((profile + 0.02) / (profile.mean(axis=0) + 0.02))
    score = np.where(arrays.mask, lift[np.arange(len(arrays))[:, None], lean[arrays.candidates]], -np.inf)
    best = score == score.max(axis=1, keepdims=True)
    values = {
        name: float((truth * policy).sum(axis=1).mean())
        for name, policy in {
            "random": arrays.mask / arrays.mask.sum(axis=1, keepdims=True),
            "production": arrays.production,
            "history": best / best.sum(axis=1, keepdims=True),
        }.items()
    }
    assert 1.02 * values["random"] < values["production"] < 0.9 * values["history"]
    assert values["history"] < 0.95 * truth.max(axis=1).mean()
