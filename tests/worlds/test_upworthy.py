"""The world of real creative tests: on a small invented archive, and on the real one when it is here."""

import datetime

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

from artlib import files, ope
from artlib.data import SCHEMAS, Arrays, History, Log, LogError, contract
from artlib.worlds import open_log, upworthy


def package(test, headline, week, impressions, clicks, lede="<p>Same for&nbsp;all</p>", excerpt="Pass it on") -> dict:
    return {
        "clickability_test_id": test,
        "headline": headline,
        "lede": lede,
        "excerpt": excerpt,
        "test_week": week,
        "impressions": impressions,
        "clicks": clicks,
        "eyecatcher_id": "picture",
    }


def archive() -> pd.DataFrame:
    """30 plain tests over 30 weeks, and those with a peculiarity."""
    rows = []
    for i in range(30):
        rows += [
            package(f"plain{i:02}", f"Headline {i} of {k}", 201410 + i, 1000 + 500 * k, 10 + 5 * i + 7 * k)
            for k in range(2 + i % 3)
        ]
    rows += [package("uneven1", f"Uneven {k}", 201325, 900, 9) for k in range(3)]
    rows += [package("uneven2", f"Uneven {k}", 201402, 900, 9) for k in range(3)]
    rows += [package("border1", f"Before {k}", 201324, 900, 9) for k in range(2)]
    rows += [package("border2", f"After {k}", 201403, 900, 9) for k in range(2)]
    # Three packages, of which two differ in their picture alone.
    rows += [package("pooled", "One <b>bold</b> &amp; plain", 201412, 1000, 10)]
    rows += [package("pooled", "Another", 201412, 800, 80), package("pooled", "One bold & plain", 201412, 3000, 70)]
    rows += [package("pictures", "Only pictures differ", 201412, 700, 7) for _ in range(4)]
    rows += [package("ledes", "The same", 201413, 700, 7, lede=f"<p>Lede {k}</p>") for k in range(2)]
    rows += [package("excerpts", "The same", 201414, 700, 7, excerpt=f"Excerpt {k}") for k in range(2)]
    rows += [package("empty", f"Nothing {k}", 201500, 700, 7, lede=None, excerpt=None) for k in range(2)]
    # A story that is tested again in the last week: the first test is left out.
    rows += [package("again1", f"Again {k}", 201411, 700, 7) for k in range(2)]
    rows += [package("again2", f"Again {k}", 201500, 700, 7) for k in range(2)]
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    data = tmp_path_factory.mktemp("data")
    (data / "upworthy").mkdir()
    frame = archive()
    frame.insert(0, "", range(len(frame)))  # the archive's own files begin with a column without a name
    frame.to_csv(data / "upworthy" / "packages.csv.gz", index=False, lineterminator="\r\n", encoding="utf-8-sig")
    (data / "upworthy" / "notes.csv").write_text("a,b\n1,2\n")
    return data


@pytest.fixture(scope="module")
def log(folder) -> Log:
    built = upworthy.build(folder, n_train=4000, n_validation=500, seed=1)
    built.validate()
    return built


def captions(log, test: str) -> dict[str, float]:
    """The captions of a test with their measured click rates."""
    text = dict(zip(log.artworks["artwork_id"].to_pylist(), log.artworks["caption"].to_pylist(), strict=True))
    for row, truth in zip(log.impressions.to_pylist(), log.truth.to_pylist(), strict=True):
        assert row["impression_id"] == truth["impression_id"]
        if row["title_id"] == f"w{test}":
            return dict(zip((text[a] for a in row["candidates"]), truth["expected_reward"], strict=True))
    return {}


def rows_of(log, split: str) -> tuple[Log, Arrays]:
    return log.split(split), log.split(split).arrays()


def test_captions_are_headlines_without_html_and_ledes_where_headlines_are_the_same(log):
    assert set(captions(log, "plain00")) == {"Headline 0 of 0", "Headline 0 of 1"}
    assert set(captions(log, "ledes")) == {"The same Lede 0", "The same Lede 1"}
    assert set(captions(log, "excerpts")) == {"The same Excerpt 0", "The same Excerpt 1"}
    synopsis = dict(zip(log.titles["title_id"].to_pylist(), log.titles["synopsis"].to_pylist(), strict=True))
    assert synopsis["wplain00"] == "Same for all" and synopsis["wledes"] == "" and synopsis["wempty"] == ""


def test_packages_that_differ_in_their_picture_are_one_candidate(log):
    assert captions(log, "pooled") == pytest.approx({"One bold & plain": 80 / 4000, "Another": 80 / 800})
    assert not captions(log, "pictures")


def test_what_is_left_out_is_counted(log):
    counts = log.manifest["source"]["counts"]
    assert counts["tests_in_uneven_weeks"] == 2 and not captions(log, "uneven1") and not captions(log, "uneven2")
    assert captions(log, "border1") and captions(log, "border2")
    assert counts["tests_with_one_text"] == 1 and counts["packages_of_the_same_text_pooled"] == 4
    assert counts["tests_with_a_caption_of_a_later_split"] == 1
    assert not captions(log, "again1") and captions(log, "again2")
    assert counts["tests_in_file"] == 41 and counts["packages_in_file"] == len(archive())
    assert sum(counts[f"tests_in_{name}"] for name in contract.SPLITS) == 37 == len(log.titles)
    assert log.manifest["source"]["files"] == ["packages.csv.gz"]


def test_splits_follow_the_weeks_and_share_no_title_and_no_caption(log):
    parts = [log.split(name) for name in contract.SPLITS]
    spans = [pc.min_max(part.impressions["timestamp"]).as_py() for part in parts]
    assert spans[0]["max"] < spans[1]["min"] and spans[1]["max"] < spans[2]["min"]
    text = log.artworks["caption"].to_numpy()
    seen = [set(text[np.unique(part.arrays().candidates[part.arrays().mask])]) for part in parts]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert log.cold().tolist() == [row["split"] != "train" for row in log.impressions.to_pylist()]


@pytest.mark.parametrize(
    "week, day",
    [
        (201446, (2014, 11, 17)),
        (201500, (2014, 12, 29)),
        (201501, (2015, 1, 5)),
        (201301, (2013, 1, 7)),
    ],
)
def test_time_is_the_monday_of_the_test_week(week, day):
    assert datetime.datetime.fromtimestamp(upworthy._monday(week) / 1e6, datetime.UTC).timetuple()[:3] == day


def test_nobody_has_a_history_and_each_test_has_its_own_user(log):
    assert len(log.histories) == 0 and log.histories.schema.equals(SCHEMAS["histories"])
    assert not History(log.titles, log.histories).genre_profile(log.impressions).any()
    pairs = set(zip(log.impressions["user_id"].to_pylist(), log.impressions["title_id"].to_pylist(), strict=True))
    assert len(pairs) == len({user for user, _ in pairs}) == 37


def test_groups_are_shown_by_share_and_click_at_the_observed_rate(log):
    part, arrays = rows_of(log, "train")
    assert len(arrays) == 4000
    rows = np.arange(len(arrays))
    np.testing.assert_array_equal(arrays.propensity, arrays.production[rows, arrays.shown])
    hit = np.bincount(arrays.shown_artwork, minlength=len(log.artworks))
    expected = np.zeros(len(log.artworks))
    np.add.at(expected, arrays.candidates[arrays.mask], arrays.production[arrays.mask])
    # Tests are drawn too, so this is looser than a chi-square given the tests.
    assert np.all(np.abs(hit - expected) < 4 * np.sqrt(expected + 1))
    rate = part.expected_reward()[rows, arrays.shown]
    deviation = np.sqrt((rate * (1 - rate) / 25).sum())
    assert abs(arrays.reward.sum() - rate.sum()) < 4 * deviation
    np.testing.assert_allclose(arrays.reward * 25, np.round(arrays.reward * 25))
    assert 0.1 < (arrays.reward > 0).mean() < 0.9


def test_ips_on_the_test_split_is_the_measured_value_of_any_policy(log):
    part, arrays = rows_of(log, "test")
    truth, rng = part.expected_reward(), np.random.default_rng(0)
    assert np.bincount(arrays.shown_artwork).max() == 1
    assert len(arrays) == arrays.mask[np.unique(arrays.title, return_index=True)[1]].sum()
    for _ in range(5):
        # One policy a test, the same in all its rows.
        drawn = rng.dirichlet(np.ones(arrays.mask.shape[1]), arrays.title.max() + 1)[arrays.title] * arrays.mask
        policy = drawn / drawn.sum(axis=1, keepdims=True)
        feedback = ope.Feedback(
            reward=arrays.reward, action=arrays.shown, propensity=arrays.propensity, target=policy, mask=arrays.mask
        )
        measured = (policy * truth).sum(axis=1).mean()
        for name in ("ips", "snips"):
            assert ope.estimate(feedback, name, n_bootstrap=40).value == pytest.approx(measured, rel=1e-9)


def test_production_is_the_share_of_impressions(log):
    rows = log.impressions.to_pylist()
    (production,) = {tuple(row["production"]) for row in rows if row["title_id"] == "wpooled"}
    assert sorted(production) == pytest.approx([800 / 4800, 4000 / 4800])


def test_most_test_rows_are_whole_tests(folder):
    few = upworthy.build(folder, n_train=50, n_validation=50, n_test=7, seed=1).split("test")
    arrays = few.arrays()
    assert 2 <= len(arrays) <= 7
    assert len(arrays) == arrays.mask[np.unique(arrays.title, return_index=True)[1]].sum()


def test_same_seed_gives_the_same_bytes_and_another_gives_others(folder, tmp_path):
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        upworthy.build(folder, n_train=100, n_validation=50, seed=seed).save(tmp_path / name)
    one, same, other = (
        {path.name: files.sha256(path) for path in (tmp_path / run).iterdir()} for run in ("one", "same", "other")
    )
    assert one == same and one["impressions.parquet"] != other["impressions.parquet"]
    assert open_log(tmp_path / "log", "upworthy", data=str(folder), n_train=100, n_users=3).truth is not None


# Faults


@pytest.mark.parametrize(
    "column, value, words",
    [
        ("impressions", "lots", "'lots' is not of type float64"),
        ("impressions", "-1", "-1.0 is not 0 or more"),
        ("impressions", "", "nan is not 0 or more"),
        ("clicks", "-1", "-1.0 is not between 0 and the impressions"),
        ("clicks", "99999", "99999.0 is not between 0 and the impressions"),
        ("test_week", "soon", "'soon' is not of type int64"),
        ("test_week", "201454", "201454 is not a year and week"),
        ("clickability_test_id", "", "nan is empty"),
    ],
)
def test_wrong_value_is_named_by_file_row_and_column(tmp_path, column, value, words):
    frame = archive().astype(str).reset_index(drop=True)
    frame.loc[6, column] = value
    frame.to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(LogError) as caught:
        upworthy.build(tmp_path)
    assert f"own.csv row 6, column {column}: {words}" in str(caught.value) and "; " in str(caught.value)


ARCHIVE = (  # the columns of the archive's files, in their order
    "created_at updated_at clickability_test_id excerpt headline lede slug eyecatcher_id impressions clicks "
    "significance first_place winner share_text square test_week"
).split()


def as_published(frame: pd.DataFrame) -> pd.DataFrame:
    """With all columns of the archive, those that are not read full of what could upset a reader."""
    odd = {"created_at": "2014-11-20 06:43:16.005", "share_text": 'He said "no",\nand left', "winner": "FALSE"}
    more = frame.assign(**{name: odd.get(name, "") for name in ARCHIVE if name not in frame})
    return more[ARCHIVE]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("packages.csv.gz", as_published),
        ("Upworthy-Archive-CONFIRMATORY-packages-03.12.2020.CSV", as_published),
        ("holdout.CSV.GZ", lambda frame: as_published(frame).reset_index().rename(columns={"index": "Unnamed: 0"})),
        (
            "own.csv",
            lambda frame: frame[["test_week", "clicks", "impressions", *upworthy.TEXTS, "clickability_test_id"]],
        ),
    ],
)
def test_any_file_of_the_archive_is_read_the_same(folder, tmp_path, name, change):
    change(archive()).to_csv(tmp_path / name, index=False, compression="gzip" if name.lower().endswith("gz") else None)
    found, used, counts = upworthy.tests(tmp_path)
    expected, _, expected_counts = upworthy.tests(folder)
    pd.testing.assert_frame_equal(found, expected)
    assert used == [name] and counts == expected_counts


def test_without_ledes_and_excerpts_only_headlines_tell_packages_apart(tmp_path):
    archive().drop(columns=["lede", "excerpt"]).to_csv(tmp_path / "own.csv", index=False)
    found, _, counts = upworthy.tests(tmp_path)
    assert (found["synopsis"] == "").all() and (found["caption"] == found["headline"]).all()
    assert counts["tests_with_one_text"] == 3  # those of pictures, ledes and excerpts


def test_packages_without_headline_or_viewers_are_left_out_and_counted(tmp_path):
    bare = [package("plain00", "", 201410, 900, 9), package("plain01", "Unseen", 201411, 0, 0)]
    pd.concat([archive(), pd.DataFrame(bare)]).to_csv(tmp_path / "own.csv", index=False)
    found, _, counts = upworthy.tests(tmp_path)
    assert (counts["packages_without_headline"], counts["packages_never_shown"]) == (1, 1)
    assert counts["packages_in_file"] == len(archive()) + 2 and "Unseen" not in set(found["caption"])


# Whole tests


def test_folds_are_of_about_equally_many_tests_and_share_no_headline(folder):
    packages, _, _ = upworthy.tests(folder)
    # Two tests have a headline in common but for its case and punctuation, and one of them another with a third.
    for test, headline in (("plain03", "HEADLINE 4, of 0!"), ("plain04", "headline 9 of 1")):
        packages.loc[packages.index[packages["test"] == test][1], "headline"] = headline
    for seed in range(5):
        part = upworthy.folds(packages, 5, seed)
        of = dict(zip(packages["test"], part, strict=True))
        assert (packages["test"].map(of) == part).all()
        assert of["plain03"] == of["plain04"] == of["plain09"] and of["again1"] == of["again2"]
        sizes = np.bincount(list(of.values()), minlength=5)
        assert sizes.sum() == len(of) and sizes.min() >= len(of) // 5 - 2 and sizes.max() <= len(of) // 5 + 3
    assert (upworthy.folds(packages, 5, 0) == upworthy.folds(packages, 5, 0)).all()
    assert (upworthy.folds(packages, 5, 0) != upworthy.folds(packages, 5, 1)).any()


def test_a_whole_log_has_each_package_once_with_all_its_clicks(folder):
    packages, _, _ = upworthy.tests(folder)
    split = np.array(["train", "validation", "test"])[np.minimum(upworthy.folds(packages), 2)]
    log = upworthy.whole(packages, split)
    log.validate()
    assert log.artworks["caption"].to_pylist() == packages["caption"].tolist()
    arrays = log.arrays()
    assert sorted(arrays.shown_artwork) == list(range(len(packages)))
    row = arrays.shown_artwork
    np.testing.assert_allclose(arrays.reward, (packages["clicks"] / packages["impressions"]).to_numpy()[row])
    np.testing.assert_allclose(arrays.propensity, 1 / arrays.mask.sum(axis=1))
    assert log.impressions["split"].to_pylist() == split[row].tolist()


def test_missing_file_column_or_weeks_are_told(tmp_path):
    with pytest.raises(LogError, match="no CSV file has the column clickability_test_id"):
        upworthy.build(tmp_path)
    archive().drop(columns="clicks").to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(LogError, match="own.csv: column clicks is missing"):
        upworthy.build(tmp_path)
    few = archive()
    few[few["clickability_test_id"] == "plain01"].to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(LogError, match="no test is left for the split validation"):
        upworthy.build(tmp_path)


@pytest.mark.parametrize("name", ["n_train", "n_validation", "n_test", "viewers"])
def test_impossible_size_is_refused(folder, name):
    with pytest.raises(ValueError, match=f"{name} = 0"):
        upworthy.build(folder, **{name: 0})


# The real archive


@pytest.fixture(scope="module")
def real(data_folder) -> Log:
    if not (data_folder / "upworthy").is_dir():
        pytest.skip(f"no real data: {data_folder / 'upworthy'} is not there")
    built = upworthy.build(data_folder)
    built.validate()
    return built


def test_real_archive_keeps_its_tests_but_for_the_uneven_weeks(real, data_folder):
    counts = real.manifest["source"]["counts"]
    assert (counts["packages_in_file"], counts["tests_in_file"]) == (15_173, 3259)
    used = sum(counts[f"tests_in_{name}"] for name in contract.SPLITS)
    left_out = ("tests_in_uneven_weeks", "tests_with_one_text", "tests_with_a_caption_of_a_later_split")
    assert used + sum(counts[name] for name in left_out) == 3259
    assert not any("<p>" in caption or "&amp;" in caption for caption in real.artworks["caption"].to_pylist())
    rates = real.expected_reward()[real.arrays().mask]
    assert 0.005 < rates.mean() < 0.03 and rates.max() < 0.2


def test_real_rates_are_clicks_over_impressions(real, data_folder):
    """Against the archive, for tests whose packages all have their own headline."""
    frame = pd.read_csv(data_folder / "upworthy" / "packages.csv.gz")
    own = frame.groupby("clickability_test_id").filter(lambda test: test["headline"].is_unique)
    rate = dict(
        zip(
            zip("w" + own["clickability_test_id"], own["headline"].str.split().str.join(" "), strict=True),
            own["clicks"] / own["impressions"],
            strict=True,
        )
    )
    test = real.split("test")
    arrays, captions = test.arrays(), real.artworks["caption"].to_pylist()
    titles = test.impressions["title_id"].to_pylist()
    pairs = [(titles[i], captions[arrays.shown_artwork[i]]) for i in range(len(arrays))]
    found = [(rate[pair], arrays.reward[i]) for i, pair in enumerate(pairs) if pair in rate]
    assert len(found) > 300
    np.testing.assert_allclose(*np.array(found).T)


def test_no_headline_of_the_real_archive_is_in_two_folds(data_folder):
    if not (data_folder / "upworthy").is_dir():
        pytest.skip(f"no real data: {data_folder / 'upworthy'} is not there")
    packages, _, counts = upworthy.tests(data_folder)
    assert (packages["test"].nunique(), len(packages)) == (1683, 7323) and counts["packages_without_headline"] == 0
    part = pd.Series(upworthy.folds(packages))
    assert (part.groupby(packages["test"].to_numpy()).nunique() == 1).all()
    for text in (packages["headline"].str.lower(), packages["caption"]):
        assert (part.groupby(text.to_numpy()).nunique() == 1).all()
    sizes = packages.groupby(part.to_numpy())["test"].nunique()
    assert sizes.between(330, 343).all()
