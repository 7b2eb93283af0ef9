"""One's own tables made a log: what is derived is right, what is missing is said, what is wrong is named."""

import json
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_tables import START, tables

from artlib.analysis import evaluation
from artlib.data import Log, LogError, Report, from_frames
from artlib.data.tables import derive, importing
from artlib.policies import baselines


def made(frames: dict, **options) -> tuple[Log, Report]:
    told = []
    return from_frames(**frames, report=told.append, **options), told[0]


def content(log: Log) -> dict[str, list]:
    key = {"titles": "title_id", "artworks": "artwork_id", "impressions": "impression_id", "histories": "user_id"}
    return {name: sorted(table.to_pylist(), key=lambda row: row[key[name]]) for name, table in log.tables().items()}


def without(frames: dict, name: str, *columns: str, **changed) -> dict:
    return frames | {name: frames[name].drop(columns=list(columns)).assign(**changed)}


# The same log, however it comes


def mangled(value, how: str, form: dict):
    if how == "time":
        at = value.value  # nanoseconds
        steps = {"s": at // 10**9, "ms": at // 10**6, "us": at // 1000, "ns": at, "float": at / 1e9}
        return steps[form["unit"]] if form["unit"] in steps else value.tz_convert(form["unit"]).isoformat()
    if form["lists"] == "json":
        return json.dumps([int(v) if str(v).isdigit() and form["ints"] else v for v in value])
    return repr(list(value)) if form["lists"] == "python" else form["lists"].join(map(str, value))


@pytest.mark.filterwarnings("ignore::artlib.data.LogWarning")  # so few rows are odd
@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 1000),
    prefix=st.sampled_from(["", "x-", "é "]),
    unit=st.sampled_from(["s", "ms", "us", "ns", "float", "Europe/Paris", "UTC"]),
    lists=st.sampled_from(["json", "python", "|", "; "]),
    spelling=st.sampled_from(["int", "float", "text"]),
    suffix=st.sampled_from([",", ";", "\t", "parquet"]),
)
def test_a_log_exported_in_another_form_imports_to_the_same_log(
    tmp_path_factory, seed, prefix, unit, lists, spelling, suffix
):
    frames = tables(20, seed, prefix)
    expected, _ = made(frames)
    folder = tmp_path_factory.mktemp("export")
    rng, form = np.random.default_rng(seed), {"unit": unit, "lists": lists, "ints": True}
    mapping = {"columns": {}, "separator": lists if lists in ("|", "; ") else "|"}
    for name, frame in frames.items():
        frame = frame.iloc[rng.permutation(len(frame))].copy()
        for column in frame.columns.intersection(["candidates", "production", "genres"]):
            frame[column] = [mangled(value, "list", form) for value in frame[column]]
        if "timestamp" in frame:
            frame["timestamp"] = [mangled(value, "time", form) for value in frame["timestamp"]]
        if not prefix and spelling != "text" and name != "artworks":
            frame["title_id"] = frame["title_id"].astype("int64" if spelling == "int" else "float64")
        mapping["columns"][name] = {column: f"their {column}" for column in frame}
        frame.columns = [f"their {column}" for column in frame]
        if suffix == "parquet":
            frame.to_parquet(folder / f"{name}.parquet")
        else:
            frame.to_csv(folder / f"{name}.csv", sep=suffix, index=False)
    (folder / "mapping.yaml").write_text(json.dumps(mapping))  # JSON is YAML
    importing.import_folder(folder, folder / "log", report=lambda _: None)
    log = Log.load(folder / "log")
    assert content(log) == content(expected)
    assert log.manifest["propensities"] == "logged" and log.manifest["production_is"] == "known"


def test_frames_of_every_library_make_the_same_log(tmp_path):
    duckdb, pl = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    frames = tables()
    expected = content(made(frames)[0])
    arrow = {name: pa.Table.from_pandas(frame) for name, frame in frames.items()}
    connection = duckdb.connect()
    for name, table in arrow.items():
        connection.register(name, table)
    pa.parquet.write_table(arrow["impressions"], tmp_path / "impressions.parquet")
    others = {
        "arrow": arrow,
        "polars": {name: pl.from_arrow(table) for name, table in arrow.items()},
        "lazy": {name: pl.from_arrow(table).lazy() for name, table in arrow.items()},
        "categorical": {
            name: pl.from_arrow(table).with_columns(pl.col("title_id").cast(pl.Categorical))
            for name, table in arrow.items()
        },
        "duckdb": {name: connection.sql(f"select * from {name}") for name in arrow},
        "dataset": arrow | {"impressions": pyarrow.dataset.dataset(tmp_path / "impressions.parquet")},
    }
    for name, each in others.items():
        assert content(made(each)[0]) == expected, name


def test_ids_of_any_type_are_spelt_alike_in_all_tables():
    frames = tables()
    users = {str(u): uuid.UUID(int=u + 1) for u in range(6)}
    frames["impressions"]["user_id"] = [users[u] for u in frames["impressions"]["user_id"]]
    frames["histories"]["user_id"] = [str(users[u]).upper() for u in frames["histories"]["user_id"]]
    frames["titles"]["title_id"] = frames["titles"]["title_id"].astype(float)
    frames["artworks"]["title_id"] = frames["artworks"]["title_id"].astype(int)
    frames["impressions"]["title_id"] = [f" {t}.0" for t in frames["impressions"]["title_id"]]
    log, _ = made(frames)
    assert log.titles["title_id"].to_pylist() == ["10", "11", "12", "13", "14"]
    assert set(log.histories["user_id"].to_pylist()) == {str(user) for user in users.values()}


def test_ids_in_lists_are_spelt_as_those_in_columns_whatever_stands_beside_them():
    frames = tables()
    spelt = {a: f"C81E728D9D4C2F636F067F89CC14{int(a):04}" for a in frames["artworks"]["artwork_id"]}  # as MD5 sums
    frames["artworks"]["artwork_id"] = [spelt[a] for a in frames["artworks"]["artwork_id"]]
    frames["impressions"]["candidates"] = [[spelt[a] for a in own] for own in frames["impressions"]["candidates"]]
    users = {str(u): f"a3c2f1e0b4d5968778695a4b3c2d{u:04}" for u in range(6)}
    for name in ("impressions", "histories"):
        frames[name]["user_id"] = [users[u] for u in frames[name]["user_id"]]
    frames["histories"] = pd.concat([frames["histories"], frames["histories"].iloc[:1].assign(user_id="anonymous")])
    log, _ = made(frames)
    known = {str(uuid.UUID(name)) for name in spelt.values()}
    assert set(log.artworks["artwork_id"].to_pylist()) == known
    assert {str(uuid.UUID(name)) for name in users.values()} >= set(log.impressions["user_id"].to_pylist())
    as_text = [" | ".join(own) for own in frames["impressions"]["candidates"]]
    again, _ = made(without(frames, "impressions", candidates=as_text), separator="|")
    assert content(again) == content(log)


def test_numbers_in_lists_that_are_no_ids_are_named():
    frames = tables()
    wrong = [[float(a) + 0.5 * (i == 3) for a in own] for i, own in enumerate(frames["impressions"]["candidates"])]
    with pytest.raises(LogError, match="column candidates: .* is not a whole number, so not an id"):
        made(without(frames, "impressions", candidates=wrong))


def test_a_separator_after_the_last_genre_makes_none():
    frames = tables()
    log, _ = made(without(frames, "titles", genres=["Drama|Crime|", "Comedy", "|Drama", "Comedy||Drama", ""]))
    assert log.titles["genres"].to_pylist() == [["Drama", "Crime"], ["Comedy"], ["Drama"], ["Comedy", "Drama"], []]


def test_genres_that_are_not_there_are_missing_and_not_derived():
    _, told = made(without(tables(), "titles", "genres"))
    assert any("genres: empty" in line for line in told.missing) and not any("genres" in line for line in told.derived)


def test_zeros_before_an_id_stay(tmp_path):
    frames = tables()
    for name in ("titles", "artworks", "histories", "impressions"):
        frames[name]["title_id"] = "00" + frames[name]["title_id"]
        frames[name].map(lambda v: json.dumps(v) if isinstance(v, list) else v).to_csv(tmp_path / f"{name}.csv")
    log = importing.import_folder(tmp_path, tmp_path / "log", report=lambda _: None)
    assert log.titles["title_id"][0].as_py() == "0010"


# Times


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_epochs_is_told_by_their_size_or_said(unit):
    frames = tables()
    expected = content(made(frames)[0])
    times = frames["impressions"]["timestamp"].astype(f"datetime64[{unit}, UTC]").astype("int64")
    log, told = made(without(frames, "impressions", timestamp=times))
    assert content(log) == expected and f"impressions, timestamp: {unit} since 1970, by their size" in told.derived
    assert content(made(without(frames, "impressions", timestamp=times), unit={"impressions": unit})[0]) == expected


@pytest.mark.parametrize(
    ("unit", "factor", "year"), [("s", 1000, "the year 57"), ("s", 10**6, "the year 5"), ("ms", 1, "1970")]
)
def test_times_that_cannot_be_are_refused_with_what_they_would_be_and_the_likely_unit(unit, factor, year):
    frames = tables()
    times = frames["impressions"]["timestamp"].astype("datetime64[s, UTC]").astype("int64") * factor
    likely = {1: "s", 1000: "ms", 10**6: "us"}[factor]
    said = rf"impressions row 0, column timestamp: {times[0]} would be {year}.*59 more rows.*are these {likely}\?"
    with pytest.raises(LogError, match=said):
        made(without(frames, "impressions", timestamp=times), unit={"impressions": unit})


@pytest.mark.parametrize("time", ["1989-12-31T23:00:00Z", "9999-12-31T00:00:00Z"])
def test_text_of_a_time_that_cannot_be_is_refused(time):
    frames = tables()
    times = [t.isoformat() for t in frames["impressions"]["timestamp"]]
    said = rf"impressions row 2, column timestamp: '{time}' would be {time[:10]}.* not between 1990-01-01 and a year"
    with pytest.raises(LogError, match=said):
        made(without(frames, "impressions", timestamp=[*times[:2], time, *times[3:]]))


def test_a_zone_is_checked_even_where_no_time_needs_it():
    for zone in ("Europe/Brlin", {"plays": "Europe/Brlin"}, "Europe", 1):
        with pytest.raises(LogError, match="timezone: .* is not known; give a name as Europe/Berlin"):
            made(tables(), timezone=zone)


def test_local_times_need_their_zone_and_are_then_right_through_a_change_of_clocks():
    frames = tables()
    local = frames["impressions"]["timestamp"].dt.tz_convert("Europe/Berlin").dt.tz_localize(None)
    for times in (local, local.astype(str)):
        with pytest.raises(
            LogError, match=r"impressions row 0, column timestamp: .*2026.* has no time zone .*59 more.*timezone: Eur"
        ):
            made(without(frames, "impressions", timestamp=times))
        log, told = made(without(frames, "impressions", timestamp=times), timezone="Europe/Berlin")
        assert content(log) == content(made(frames)[0])
        assert "impressions, timestamp: local time of Europe/Berlin" in told.derived
    frames["impressions"]["timestamp"] = [pd.Timestamp("2026-10-25 02:30"), *[pd.Timestamp("2026-11-01")] * 59]
    log, told = made(frames, timezone={"impressions": "Europe/Berlin"})
    assert log.impressions["timestamp"][0].as_py().isoformat() == "2026-10-25T00:30:00+00:00"
    assert any("1 fall where clocks change: taken as summer time" in line for line in told.derived)
    with pytest.raises(LogError, match="timezone: 'Berlin' is not known"):
        made(frames, timezone="Berlin")


@pytest.mark.parametrize("zone", ["+01", "+0100", "+01:00"])
def test_offsets_of_hours_only_are_read_as_postgresql_writes_them(zone):
    frames = tables(30)
    expected, _ = made(frames)
    local = frames["impressions"]["timestamp"].dt.tz_convert("Etc/GMT-1")
    texts = [f"{at:%Y-%m-%d %H:%M:%S}{'.5' if i == 0 else ''}{zone}" for i, at in enumerate(local)]
    texts[1] = f"{frames['impressions']['timestamp'][1]:%Y-%m-%d %H:%M:%S}+00"
    log, _ = made(without(frames, "impressions", timestamp=texts))
    found, wanted = (part.impressions["timestamp"].to_pylist() for part in (log, expected))
    assert (found[0] - wanted[0]).total_seconds() == 0.5 and found[1:] == wanted[1:]


def test_times_in_a_form_of_ones_own_are_read_by_time_format():
    frames = tables()
    times = frames["impressions"]["timestamp"].dt.strftime("%d.%m.%Y %H:%M")
    with pytest.raises(LogError, match="cannot be read as ISO8601 .*time_format"):
        made(without(frames, "impressions", timestamp=times), timezone="UTC")
    form = {"impressions": "%d.%m.%Y %H:%M"}
    log, _ = made(without(frames, "impressions", timestamp=times), timezone="UTC", time_format=form)
    assert content(log) == content(made(frames)[0])


# What was shown, and how it was chosen


def test_candidates_and_the_shown_index_come_from_the_titles_artworks():
    frames = tables()
    rows = frames["impressions"]
    named = [row.candidates[row.shown] for row in rows.itertuples()]
    log, told = made(without(frames, "impressions", "candidates", "shown", shown_artwork=named))
    assert content(log) == content(made(frames)[0])
    assert any("candidates: all artworks of the title" in line for line in told.derived)


def test_an_index_beyond_the_candidates_is_the_only_fault(tmp_path):
    frames = without(tables(), "impressions", "propensity")
    frames["impressions"].loc[3, "shown"] = 7
    with pytest.raises(LogError) as caught:
        made(frames, logging="production")
    assert "7" in str(caught.value) and "propensity" not in str(caught.value)


def test_uniform_and_epsilon_greedy_logging_give_production_and_propensity():
    frames = tables()
    bare = without(frames, "impressions", "propensity", "production")
    log, _ = made(bare, logging="uniform")
    size = log.arrays().mask.sum(axis=1)
    assert log.arrays().propensity == pytest.approx(1 / size) and log.manifest["production_is"] == "known"
    best = [row.candidates[0] for row in frames["impressions"].itertuples()]
    for greedy in ({"greedy_artwork": best}, {"greedy": [0] * 60}):
        log, _ = made(without(bare, "impressions", **greedy), logging="epsilon-greedy", epsilon=0.3)
        arrays = log.arrays()
        assert arrays.production[:, 0] == pytest.approx(0.7 + 0.3 / size)
        assert arrays.production[arrays.mask].sum() == pytest.approx(60)
        assert arrays.propensity == pytest.approx(arrays.production[np.arange(60), arrays.shown])
    log, _ = made(without(frames, "impressions", "propensity"), logging="production")
    assert content(log) == content(made(frames)[0])


@pytest.mark.parametrize("empty", [None, np.nan, "", " nan "])
def test_an_empty_column_of_propensities_is_none(empty):
    frames = without(tables(), "impressions", "production")
    expected = content(made(without(frames, "impressions", "propensity"))[0])
    log, told = made(without(frames, "impressions", propensity=empty), propensities="none")
    assert log.propensities == "none" and content(log) == expected
    assert any("propensity: there are none" in line for line in told.missing)
    for rule, column in ((None, 0.5), ("uniform", empty)):
        with pytest.raises(LogError, match="propensities are known, and the option propensities says"):
            made(without(frames, "impressions", propensity=column), propensities="none", logging=rule)


@pytest.mark.parametrize(("said", "used"), [("|", ";"), ("|", ","), (";", "|"), (",", ";")])
def test_lists_with_another_separator_than_said_are_a_fault_or_of_genres_a_word(said, used):
    frames = tables()
    frames["titles"]["genres"] = [used.join(genres) for genres in frames["titles"]["genres"]]  # 2 of 5 have two
    frames["titles"].loc[4, "genres"] = f"Drama{used}War"
    _, told = made(frames, separator=said)
    hint = f"(separator: {{titles: {used!r}}})"
    assert any(hint in line and "genres: 'Drama" in line for line in told.missing)
    lists = [used.join(candidates) for candidates in frames["impressions"]["candidates"]]
    with pytest.raises(LogError) as raised:
        made(without(frames, "impressions", candidates=lists), separator={"impressions": said, "titles": used})
    first = f"impressions row 0, column candidates: {lists[0]!r} has no {said!r}"
    assert first in str(raised.value) and f"(separator: {{impressions: {used!r}}})" in str(raised.value)
    log, told = made(without(frames, "impressions", candidates=lists), separator=used)
    assert not any("separator" in line for line in told.missing) and len(log.impressions) == 60


def test_probabilities_rounded_to_four_decimals_are_taken():
    frames = tables()
    rows = [
        [0.3333, 0.3333, 0.3333][: len(c)] if len(c) == 3 else [0.3334, 0.6666]
        for c in frames["impressions"]["candidates"]
    ]
    propensity = [row[s] for row, s in zip(rows, frames["impressions"]["shown"], strict=True)]
    log, _ = made(without(frames, "impressions", production=rows, propensity=propensity))
    assert any("rounded" in line for line in log.warnings())
    assert log.arrays().production.sum(axis=1) == pytest.approx(1, abs=1e-9)


def test_where_only_the_propensity_of_the_shown_is_known_lifts_are_right_and_dr_is_left_out(capsys):
    frames = tables(400)
    log, told = made(without(frames, "impressions", "production"))
    whole, _ = made(frames)
    assert any("only its probability of what was shown is known" in line for line in told.missing)
    found = {}
    for name, each in (("whole", whole), ("part", log)):
        test = each.split("test")
        policies = {
            "production": test.arrays().production,
            "popular": baselines.greedy(baselines.popular_scores(each, test)),
        }
        found[name] = evaluation.evaluate(each, test, policies, n_bootstrap=50).set_index(
            ["slice", "estimator", "policy"]
        )
    assert set(found["part"].index.get_level_values(1)) == {"ips", "snips"} and "no DR" in capsys.readouterr().out
    columns = ["value", "lift", "lift_lower", "lift_upper"]
    pd.testing.assert_frame_equal(found["part"][columns], found["whole"].loc[found["part"].index, columns])


# What came of it


def test_rewards_that_are_no_plays_are_judged_as_they_are_and_negative_ones_say_how_to_shift():
    frames = tables(400)
    minutes = np.round(frames["impressions"]["reward"] * 120)
    log, _ = made(without(frames, "impressions", reward=minutes), manifest={"reward": "minutes watched"})
    test = log.split("test")
    policies = {"production": test.arrays().production, "random": baselines.uniform(test)}
    table = evaluation.evaluate(log, test, policies, n_bootstrap=50).set_index(["policy", "estimator", "slice"])
    assert table.loc[("production", "ips", "all"), "value"] == pytest.approx(test.arrays().reward.mean())
    assert log.manifest["reward"] == "minutes watched"
    with pytest.raises(
        LogError, match=r"impressions row \d+, column reward: -\d+.0 is not .*add one constant to all rewards"
    ):
        made(without(frames, "impressions", reward=minutes - 30))
    shifted, _ = made(without(frames, "impressions", reward=minutes - 30 + 30 + 5))
    part = shifted.split("test")
    again = evaluation.evaluate(shifted, part, policies, n_bootstrap=50).set_index(["policy", "estimator", "slice"])
    for policy in policies:
        at = policy, "snips", "all"
        assert again.loc[at, "value"] - 5 == pytest.approx(table.loc[at, "value"]), "SNIPS moves by the constant"


def test_plays_count_for_the_last_impression_before_them_within_the_window():
    frames = tables(4)
    frames["impressions"] = frames["impressions"].assign(user_id="0", title_id="10", candidates=[["100", "101"]] * 4)
    frames["impressions"]["shown"], frames["impressions"]["production"] = 0, [[0.5, 0.5]] * 4
    frames["impressions"]["timestamp"] = [START + pd.Timedelta(hours=h) for h in (0, 5, 6, 90)]
    hours = [3, 7, 8, 100, 130]  # the first's, the third's twice, the last's, and one too late for any
    plays = pd.DataFrame({"user_id": 0, "title_id": 10, "timestamp": [START + pd.Timedelta(hours=h) for h in hours]})
    bare = without(frames, "impressions", "reward", split="test", propensity=0.5) | {"histories": None}
    log, told = made(bare | {"plays": plays}, window="24h")
    assert log.impressions["reward"].to_pylist() == [1, 0, 2, 1]
    assert any("3 of 4 impressions have some" in line for line in told.derived)
    minutes, _ = made(bare | {"plays": plays.assign(reward=[10, 20, 30, 40, 50])}, window="24h")
    assert minutes.impressions["reward"].to_pylist() == [10, 0, 50, 40]
    _, told = made(bare | {"plays": plays.iloc[:4]}, window="24h")
    assert any("the 1 impressions of the last 24h may still be played" in line for line in told.missing)
    with pytest.raises(LogError, match="say how long after an impression a play still counts, window: 24h"):
        made(bare | {"plays": plays})
    with pytest.raises(LogError, match="impressions has rewards, and there are plays"):
        made(without(frames, "impressions", split="test") | {"plays": plays}, window="24h")


def played(*rows: tuple, n: int = 8) -> tuple[dict, pd.DataFrame]:
    """Impressions of 8 members, an hour apart, each shown title 10; and plays: user, title, hours, reward."""
    frames = tables(n)
    rewards = pd.DataFrame(rows, columns=["user_id", "title_id", "timestamp", "reward"])
    rewards["timestamp"] = [START + pd.Timedelta(hours=hours) for hours in rewards["timestamp"]]
    frames["impressions"] = frames["impressions"].assign(
        user_id=[f"u{i}" for i in range(n)],
        title_id=["10"] * (n - 1) + ["11"],
        timestamp=[START + pd.Timedelta(hours=h) for h in range(n)],
        shown=0,
        split="test",
        propensity=0.5,
    )
    bare = without(frames, "impressions", "reward", "candidates", "production") | {"histories": None}
    return bare, rewards


def test_plays_that_fall_on_no_impression_are_counted_and_explained():
    frames, plays = played(
        ("u0", "10", 1, 1),
        ("x9", "10", 2, 1),
        ("x8", "77", 2, 1),
        ("u1", "99", 2, 1),
        ("u1", "11", 2, 1),
        ("u5", "10", 2, 1),
        ("u1", "10", 90, 1),
    )
    log, told = made(frames | {"plays": plays}, window="24h")
    assert sum(log.impressions["reward"].to_pylist()) == 1
    assert (
        "plays: 6 of 7 plays fall on no impression: 2 of unknown users (first: 'x9'), 1 of unknown titles (first: "
        "'99'), 1 of titles never shown to their user, 1 before any impression, 1 outside the window (24h)"
    ) in told.missing
    _, told = made(frames | {"plays": plays.iloc[:1]}, window="24h")
    assert not any("fall on no impression" in line for line in told.missing)
    strangers = plays.iloc[[1, 1]].assign(user_id=["usr_1", "usr_2"])
    with pytest.raises(
        LogError, match=r"plays: 2 of 2 plays fall on .* 2 of unknown users \(first: 'usr_1' \(or spell ids"
    ):
        made(frames | {"plays": strangers}, window="24h")


@pytest.mark.parametrize(("value", "said"), [(-3.0, "-3.0"), (np.inf, "inf")])
def test_plays_of_no_worth_are_blamed_on_plays(value, said):
    frames, plays = played(("u0", "10", 1, 2.0), ("u1", "10", 2, value))
    plays = plays.rename(columns={"reward": "minutes"})
    with pytest.raises(LogError) as raised:
        made(frames | {"plays": plays}, window="24h", columns={"plays": {"reward": "minutes"}})
    assert f"plays row 1, column minutes: {said} is not a finite number of at least 0" in str(raised.value)
    assert str(raised.value).count("\n- ") == 1


@pytest.mark.parametrize("name", ["titles", "artworks", "impressions", "plays"])
def test_a_table_without_rows_is_named(name):
    frames, plays = played(("u0", "10", 1, 2.0))
    frames["plays"] = plays
    with pytest.raises(LogError, match=rf"\n- {name} has no rows$"):
        made(frames | {name: frames[name].iloc[:0]}, window="24h")


def test_impressions_of_one_page_do_not_make_intervals_too_narrow():
    """Rows of a page share a member and all of its luck. Clustered by member, the interval is that of the pages."""
    rng = np.random.default_rng(0)
    frames = tables(1750, seed=3)
    page = np.arange(1750) // 5  # five impressions at one time, all played or none
    frames["impressions"] = frames["impressions"].assign(
        user_id=[f"{p}" for p in page],
        timestamp=[START + pd.Timedelta(hours=int(p)) for p in page],
        reward=np.repeat(rng.integers(0, 2, 350), 5).astype(float),
    )
    frames["impressions"]["split"] = np.where(page < 50, "train", "test")
    frames["histories"] = None
    log, _ = made(frames)
    test = log.split("test")
    policies = {"production": test.arrays().production}
    table = evaluation.evaluate(log, test, policies, ["snips"], n_bootstrap=500)
    row = table[table["slice"] == "all"].iloc[0]
    assert row["upper"] - row["lower"] == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(300), rel=0.15)


# What is left to derive


def test_a_bare_export_becomes_a_log_and_the_report_says_what_it_lacks(capsys):
    frames = tables(400)
    frames["titles"] = frames["titles"][["title_id", "name"]]
    frames["artworks"] = frames["artworks"][["artwork_id", "title_id", "caption"]]
    frames["impressions"] = frames["impressions"][["user_id", "title_id", "timestamp", "shown", "reward"]]
    frames["histories"] = frames["histories"][["user_id", "title_id", "timestamp"]]
    frames["impressions"]["user_id"] = np.arange(400) % 370
    log = from_frames(**frames)
    said = capsys.readouterr().out
    assert len(said.splitlines()) < 25 and max(map(len, said.splitlines())) < 260
    for name in ("year", "synopsis", "genres", "weight", "production", "propensity"):
        assert f", {name}: " in said.split("missing, and how to get it:")[1], name
    assert log.propensities == "none" and log.impressions["propensity"].null_count == len(log.impressions)
    assert log.manifest["import"]["missing"] and set(log.impressions["split"].to_pylist()) == {
        "train",
        "validation",
        "test",
    }


def test_split_by_time_keeps_pairs_together_and_nothing_of_the_future():
    frames = tables(300)
    frames["impressions"]["user_id"] = [str(u) for u in np.random.default_rng(1).integers(0, 150, 300)]
    log, told = made(without(frames, "impressions", "split"), shares=[60, 20, 20])
    rows = log.impressions.to_pandas()
    last, first = (rows.groupby("split")["timestamp"].agg(how) for how in ("max", "min"))
    assert last["train"] < first["validation"] and last["validation"] < first["test"]
    assert rows.groupby(["user_id", "title_id"])["split"].nunique().max() == 1
    left_out = 300 - len(rows)
    assert 0 < left_out < 100
    assert any(f"60/20/20 by time; {left_out} impressions are left out" in line for line in told.derived)
    assert len(rows[rows["split"] == "train"]) == 180


@pytest.mark.parametrize(
    ("shares", "expected"), [([80, 20, 0], [16, 4, 0]), ([100, 0, 0], [20, 0, 0]), ([0, 50, 50], [0, 10, 10])]
)
def test_a_split_without_a_share_gets_nothing(shares, expected):
    pairs = pd.DataFrame({"user_id": [str(u) for u in range(20)], "title_id": "t"})
    split, keep = derive.splits(pairs, np.arange(20), shares, "time")
    assert [int((split == name).sum()) for name in ("train", "validation", "test")] == expected and keep.all()


def test_a_log_in_which_all_pairs_come_early_is_split_by_pair_on_demand():
    frames = without(tables(300), "impressions", "split")
    with pytest.raises(LogError, match="no impression is left for validation.*\n.*for test.*split_by: pair"):
        made(frames)
    log, told = made(frames, split_by="pair", shares=[1, 1, 1])
    assert set(log.impressions["split"].to_pylist()) == {"train", "validation", "test"} and len(log.impressions) == 300
    again, _ = made(without(frames, "impressions", impression_id=range(300)), split_by="pair", shares=[1, 1, 1])
    assert again.impressions["split"] == log.impressions["split"]


def test_other_names_of_splits_and_weights_of_other_scales_are_ours():
    frames = tables()
    other = frames["impressions"]["split"].map({"train": "Training", "validation": "dev", "test": "TEST"})
    frames = without(frames, "impressions", split=other)
    log, told = made(without(frames, "histories", weight=[1, 2, 3, 4, 4, 4]))
    assert log.impressions["split"].to_pylist() == tables()["impressions"]["split"].tolist()
    assert log.histories["weight"].to_pylist() == [0.25, 0.5, 0.75, 1, 1, 1]
    assert "histories, weight: divided by 4, the largest there is; say weight_max if it is another" in told.derived
    log, _ = made(without(frames, "histories", weight=[1, 2, 3, 4, 4, 4]), weight_max=5)
    assert log.histories["weight"][0].as_py() == 0.2


def test_history_that_no_impression_may_know_is_left_out_and_counted():
    frames = tables()
    late = frames["histories"].assign(timestamp=START + pd.Timedelta("200D"))
    frames["histories"] = pd.concat([late, frames["histories"]])
    log, told = made(frames)
    assert content(log) == content(made(tables())[0])
    assert any("6 rows at or after the last impression of their user are left out" in line for line in told.derived)


def test_histories_of_users_without_impressions_are_counted():
    frames = tables()
    names = [f"{u}" if u < 2 else f"USR-{u}" for u in range(6)]
    _, told = made(without(frames, "histories", user_id=names))
    said = (
        "histories, user_id: 4 of 6 rows are of users without an impression (first: 'USR-2') (or spell ids alike: 'US"
    )
    assert any(line.startswith(said) for line in told.missing)
    _, told = made(without(frames, "histories", user_id=[*"01234", "x"]))
    assert not any("users without an impression" in line for line in told.missing), "so few may be"


# What is wrong


def test_all_that_cannot_be_derived_is_listed_at_once():
    frames = tables()
    frames["titles"] = frames["titles"].drop(columns="name").assign(year="MMXX")
    frames["artworks"] = frames["artworks"].drop(columns="caption")
    frames["impressions"] = frames["impressions"].drop(columns="shown").assign(timestamp="yesterday", reward="a lot")
    with pytest.raises(LogError) as raised:
        made(frames)
    said = str(raised.value)
    for expected in (
        "titles: no column 'name' (there are title_id, year, genres, synopsis)",
        "titles row 0, column year: 'MMXX' is not a number (and 4 more rows)",
        "artworks: no column 'caption'",
        "impressions row 0, column timestamp: 'yesterday' cannot be read as ISO8601",
        "impressions row 0, column reward: 'a lot' is not a number",
        "impressions: no column 'shown'",
    ):
        assert expected in said
    assert said.count("\n- ") == 6


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    [
        ("impressions", "propensity", 1.5, "row 2, column p: 1.5 is outside (0, 1]"),
        ("impressions", "shown", 7, "row 2, column s: 7 is not an index into candidates"),
        ("impressions", "shown", 0.5, "row 2, column s: 0.5 is not a whole number; give the index"),
        ("impressions", "title_id", "99", "row 2, column title_id: '99' is not in films.csv"),
        ("impressions", "production", "[0.5, 'x']", "column production: \"[0.5, 'x']\" is no list of numbers"),
        ("impressions", "user_id", None, "row 2, column user_id: None is null"),
        ("impressions", "timestamp", "2026-13-45", "row 2, column timestamp: '2026-13-45' cannot be read"),
        ("titles", "name", " ", "row 2, column name: ' ' is empty"),
        ("histories", "weight", -1, "row 2, column weight: -1.0 is outside [0, 1]"),
    ],
)
def test_a_fault_names_their_file_row_column_value_and_a_remedy(tmp_path, table, column, value, message):
    frames = tables()
    frames[table][column] = frames[table][column].astype(object)
    frames[table].loc[2, column] = value
    frames["impressions"] = frames["impressions"].rename(columns={"propensity": "p", "shown": "s"})
    for name, frame in frames.items():
        frame = frame.map(lambda v: json.dumps(v) if isinstance(v, list) else v)
        frame.to_csv(tmp_path / f"{'films' if name == 'titles' else name}.csv", index=False)
    mapping = "files: {titles: films.csv}\ncolumns: {impressions: {propensity: p, shown: s}}\n"
    (tmp_path / "mapping.yaml").write_text(mapping)
    with pytest.raises(LogError) as raised:
        importing.import_folder(tmp_path, tmp_path / "log", report=lambda _: None)
    file = "films.csv" if table == "titles" else f"{table}.csv"
    assert f"{file} row 2, column" in str(raised.value) and message in str(raised.value)
    assert ";" in str(raised.value) and not (tmp_path / "log").exists()


def test_faults_are_named_where_values_are_to_be_derived_from_them():
    frames = tables(300)
    rows = frames["impressions"].drop(columns=["production", "propensity", "split"])
    for changed, message in (
        ({"user_id": [None, *rows["user_id"][1:]]}, "row 0, column user_id: None is null"),
        ({"timestamp": [None, *rows["timestamp"][1:]]}, "row 0, column timestamp: None is null"),
        ({"shown": [9, *rows["shown"][1:]]}, "row 0, column shown: 9 is not an index"),
        ({"candidates": [None, *rows["candidates"][1:]]}, "row 0, column candidates: None is null"),
    ):
        for options in ({"propensities": "estimate"}, {"logging": "uniform"}, {}):
            with pytest.raises(LogError) as raised:
                made(frames | {"impressions": rows.assign(**changed)}, split_by="pair", **options)
            assert message in str(raised.value) and str(raised.value).count("\n- ") == 1
    plays = rows[["user_id", "title_id", "timestamp"]].copy()
    plays.loc[1, "timestamp"] = None
    with pytest.raises(LogError, match="plays row 1, column timestamp: NaT has no time, user or title"):
        made(frames | {"impressions": rows.drop(columns="reward"), "plays": plays}, split_by="pair", window="1h")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_zone": "UTC"}, "option 'time_zone' is not one of .*did you mean timezone"),
        ({"logging": "random"}, "logging is 'random'; it must be one of uniform"),
        ({"logging": "epsilon-greedy"}, "epsilon is None"),
        ({"unit": "minutes"}, "unit is 'minutes'"),
        ({"shares": [80, 20]}, "three numbers"),
        ({"shares": ["80", "10", "10"]}, "three numbers"),
        ({"shares": [80, None, 20]}, "three numbers"),
        ({"weight_max": "five"}, "weight_max is 'five'; give the largest weight"),
        ({"weight_max": 0}, "weight_max is 0; give the largest weight, above 0"),
        ({"separator": ""}, "separator is ''; give a text"),
        ({"separator": {"titles": None}}, "separator is None; give a text"),
        ({"time_format": 5}, "time_format is 5; give a form"),
        ({"columns": {"titles": "films"}}, "columns: titles is 'films'; give titles: {our name: yours}"),
        ({"window": 24}, "window is 24; give a length of time with its unit"),
        ({"columns": {"usr_id": "uid"}}, "'usr_id' is neither a table nor a column of ours, did you mean user_id"),
        ({"columns": {"user_id": "uid"}}, "no table has a column 'uid', named for user_id"),
        ({"columns": {"titles": {"nam": "x"}}}, "titles has no 'nam'; ours are .*did you mean name"),
        ({"columns": {"titles": {"name": "x"}}}, "titles: no column 'x', which columns names for name"),
        ({"titles": None}, "titles is missing"),
        ({"titles": 3}, "titles is a int; give a pandas or Polars frame"),
        ({"propensities": "estimate"}, "propensities are known and are to be estimated"),
    ],
)
def test_a_wrong_request_is_refused_with_what_would_be_right(options, message):
    with pytest.raises(LogError, match=message):
        made(tables() | {name: options.pop(name) for name in list(options) if name == "titles"}, **options)
