"""Real randomised creative tests with real clicks: the Upworthy Research Archive (Matias et al. 2021).

Each A/B test is a title, its packages are the candidates, a candidate's value is its observed click rate. Nothing is
simulated, so the value of any policy is measured. Nobody's history is known: a test's viewers are one user.
"""

import datetime
import html
import os
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse.csgraph

from artlib.data import SCHEMAS, Log, LogError, table, unpad
from artlib.worlds import sources
from artlib.worlds.registry import Frozen, World

TEXTS = ("headline", "lede", "excerpt")  # what tells packages apart, in the order in which it is put into captions
COLUMNS: dict[str, str | type] = {  # lede and excerpt are read where they are; all others are left alone
    "clickability_test_id": str,
    "headline": str,
    "test_week": "int64",
    "impressions": "float64",
    "clicks": "float64",
}
# The archive's authors advise against causal use of these weeks, in which arms were not evenly randomised.
UNEVEN = (201325, 201402)
SHARES = {"train": 0.6, "validation": 0.1, "test": 0.3}  # of the tests, by week
GENRE = "Web stories"


def build(
    data: str | os.PathLike = "",
    n_train: int = 20_000,
    n_validation: int = 3000,
    n_test: int = 5000,
    viewers: int = 25,
    seed: int = 0,
) -> Log:
    """Build the log.

    Rows of train and validation: a group of `viewers` people who were shown the same package. The package is drawn by
    its share of the test's impressions, which is the propensity; the reward is the share of the group that clicked,
    the group being drawn from the package's own clicks and impressions. (Whole packages all have some clicks, so that
    "reward above 0" would tell nothing to those who train on it.)

    Rows of test: each package of a test once, its reward the observed click rate, propensity 1 / K. IPS is then
    exactly the measured value, a test with K packages counting K times; so is the mean of the truth over these rows.

    Args:
        data: folder with `upworthy/`; see `sources.folder`.
        n_train, n_validation: rows. n_test: most rows; tests beyond it are left out.
        viewers: people a row.
        seed: of everything that is drawn.

    Returns:
        A log without earlier period; production is the site's own test, i.e. each package's share of impressions.

    Raises:
        LogError: no file, a missing column, or a value that cannot be; names file, row, column, value, remedy.
    """
    sizes = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test, "viewers": viewers}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1 is needed")
    rng = np.random.default_rng(seed)
    packages, used, counts = tests(data)
    packages, counts["tests_with_a_caption_of_a_later_split"] = _split(packages)
    counts |= {f"tests_in_{name}": int(packages["test"][packages["split"] == name].nunique()) for name in SHARES}
    parts = [
        _groups(packages[packages["split"] == "train"], n_train, viewers, rng),
        _groups(packages[packages["split"] == "validation"], n_validation, viewers, rng),
        _arms(packages[packages["split"] == "test"], n_test, rng),
    ]
    return _log(
        packages,
        pd.concat(parts, ignore_index=True),
        {
            "parameters": sizes,
            "seed": seed,
            "source": {"files": used, "counts": counts},
            "reward": "click rate: in train and validation of a group of viewers of the package, in test of all",
            "rows": f"train, validation: {viewers} viewers of a package; test: each package once, propensity 1/K",
        },
    )


def tests(data: str | os.PathLike = "") -> tuple[pd.DataFrame, list[str], dict[str, int]]:
    """The tests of even weeks that compare texts.

    Args:
        data: as in `build`.

    Returns:
        packages: a row a different caption of a test, those of a test together, the earliest week first: test, week,
            headline, caption, synopsis, impressions, clicks. The files. What was left out and pooled, counted.
    """
    packages, used = _read(sources.folder(data))
    packages, counts = _candidates(packages)
    return packages, used, counts


def linked(packages: pd.DataFrame) -> np.ndarray:
    """(rows,) group of each package of `tests`: tests that share a headline, whatever its case and punctuation, or are
    linked through others that do, are of one group. Stories were tested more than once."""
    test = pd.factorize(packages["test"])[0]
    words = [" ".join(re.findall(r"\w+", text.casefold())) for text in packages["headline"]]
    headline = pd.factorize(np.array(words))[0]
    shape = test.max() + 1, headline.max() + 1
    shared = scipy.sparse.coo_matrix((np.ones(len(test)), (test, headline)), shape)
    return scipy.sparse.csgraph.connected_components(shared @ shared.T)[1][test]


def folds(packages: pd.DataFrame, n: int = 5, seed: int = 0) -> np.ndarray:
    """(rows,) one of n parts of about equally many tests for each package of `tests`; no headline is in two."""
    group = linked(packages)
    sizes = np.bincount(group[packages.groupby("test").cumcount() == 0])
    order = np.random.default_rng(seed).permutation(len(sizes))
    part = np.empty(len(sizes), dtype=int)
    part[order] = (np.cumsum(sizes[order]) - sizes[order] / 2) * n // sizes.sum()
    return part[group]


def whole(packages: pd.DataFrame, split: np.ndarray) -> Log:
    """A log of `tests` for those who learn from whole tests: in all splits each package is a row once, its reward the
    observed click rate, propensity 1 / K.

    Args:
        packages: rows of `tests`; artworks of the log, in the same order.
        split: (rows,) train, validation or test, the same for all packages of a test.
    """
    packages = _measured(packages.assign(split=split))
    rows = _arms(packages, len(packages), np.random.default_rng(0))
    said = {"reward": "click rate of all viewers of the package", "rows": "each package once, propensity 1/K"}
    return _log(packages, rows, said)


def _log(packages: pd.DataFrame, rows: pd.DataFrame, said: dict) -> Log:
    """A log of rows of package (row of `packages`), reward and propensity; `said` joins its manifest."""
    titles = packages.groupby("test", sort=False)
    title_id = np.char.add("w", np.array(list(titles.groups), dtype=str))
    return Log(
        titles=table(
            "titles",
            {
                "title_id": title_id,
                "name": [f"Story {name[-7:]}" for name in title_id],
                "year": (titles["week"].first() // 100).to_numpy(),
                "genres": [[GENRE]] * len(title_id),
                "synopsis": titles["synopsis"].first().tolist(),
            },
        ),
        artworks=table(
            "artworks",
            {
                "artwork_id": packages["artwork_id"].tolist(),
                "title_id": np.char.add("w", packages["test"].to_numpy().astype(str)),
                "caption": packages["caption"].tolist(),
                "image": pa.nulls(len(packages), pa.string()),
            },
        ),
        histories=SCHEMAS["histories"].empty_table(),
        **_tables(packages, rows),
        manifest={
            "world": "upworthy",
            **said,
            "truth": "measured, not simulated: observed click rates, clicks / impressions. Being measured, they carry "
            "sampling noise, so the best observed rate (the oracle) flatters the package that has it",
            "licence": "CC BY 4.0, Upworthy Research Archive, Matias, Munger, Aubin Le Quere, Ebersole 2021",
        },
    )


def _read(folder) -> tuple[pd.DataFrame, list[str]]:
    """All packages of the files in `upworthy/` (or the folder itself) that have the archive's columns."""
    place = folder / "upworthy" if (folder / "upworthy").is_dir() else folder
    paths = sorted(path for path in place.iterdir() if path.name.lower().endswith((".csv", ".csv.gz")))
    paths = [path for path in paths if "clickability_test_id" in sources.header(path)]
    if not paths:
        raise LogError(f"{place}: no CSV file has the column clickability_test_id; put the archive's packages there")
    parts = []
    for path in paths:
        rows = sources.read_csv(path, COLUMNS, list(TEXTS))
        shown, clicks, week = rows["impressions"], rows["clicks"], rows["test_week"]
        sources.check(path, "impressions", ~(shown >= 0), shown, "is not 0 or more", "drop the row")
        sources.check(
            path,
            "clicks",
            ~((clicks >= 0) & (clicks <= shown)),
            clicks,
            "is not between 0 and the impressions",
            "repair or drop the row",
        )
        sources.check(
            path,
            "test_week",
            ~week.mod(100).between(0, 53),
            week,
            "is not a year and week, as 201446",
            "repair or drop the row",
        )
        test = rows["clickability_test_id"]
        sources.check(path, "clickability_test_id", test.isna(), test, "is empty", "drop the row")
        parts.append(rows)
    packages = pd.concat(parts, ignore_index=True).rename(columns={"clickability_test_id": "test", "test_week": "week"})
    for name in TEXTS:
        column = packages[name] if name in packages else [""] * len(packages)
        packages[name] = [_plain(text) if isinstance(text, str) else "" for text in column]
    return packages, [path.name for path in paths]


def _plain(text: str) -> str:
    """Text without HTML, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def _candidates(packages: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """One row a distinct caption of a test, with test, week, headline, caption, synopsis, impressions, clicks; and
    counts."""
    counts = {"packages_in_file": len(packages), "tests_in_file": int(packages["test"].nunique())}
    counts["packages_without_headline"] = int((packages["headline"] == "").sum())
    counts["packages_never_shown"] = int((packages["impressions"] == 0).sum())
    packages = packages[(packages["headline"] != "") & (packages["impressions"] > 0)]
    uneven = packages.loc[packages["week"].between(*UNEVEN), "test"].unique()
    counts["tests_in_uneven_weeks"] = len(uneven)
    packages = packages[~packages["test"].isin(uneven)].copy()
    # The lede joins the headline where packages of a test share the headline and differ in it; then the excerpt.
    packages["caption"] = packages["headline"]
    for name in TEXTS[1:]:
        differs = packages.groupby(["test", "caption"])[name].transform("nunique") > 1
        packages["caption"] = np.where(differs, packages["caption"] + " " + packages[name], packages["caption"])
    packages["caption"] = packages["caption"].str.strip()
    shared = packages.groupby("test")["lede"].transform("nunique") == 1
    packages["synopsis"] = packages["lede"].where(shared, "")
    packages["week"] = packages.groupby("test")["week"].transform("min")
    # Packages that differ only in their picture, which is not known here, are one candidate.
    pooled = packages[packages["caption"] != ""].groupby(["week", "test", "caption"], sort=True, as_index=False)
    texts = {name: (name, "first") for name in ("headline", "synopsis")}
    pooled = pooled.agg(**texts, impressions=("impressions", "sum"), clicks=("clicks", "sum"))
    counts["packages_of_the_same_text_pooled"] = len(packages) - len(pooled)
    several = pooled.groupby("test")["caption"].transform("size") > 1
    counts["tests_with_one_text"] = int(pooled.loc[~several, "test"].nunique())
    pooled = pooled[several].reset_index(drop=True)
    counts["packages"] = len(pooled)
    return pooled, counts


def _split(packages: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Give each test a split by its week. A story tested again later would put a caption into two splits: the earlier
    test is left out, and counted."""
    weeks = packages.drop_duplicates("test")["week"]
    cuts = weeks.quantile(np.cumsum(list(SHARES.values()))[:-1], interpolation="nearest").to_numpy()
    packages["split"] = np.array(list(SHARES))[np.searchsorted(cuts, packages["week"].to_numpy(), side="left")]
    order = packages["split"].map(list(SHARES).index)
    last = order.groupby(packages["caption"]).transform("max")
    again = packages.loc[last > order, "test"].unique()
    packages = packages[~packages["test"].isin(again)].reset_index(drop=True)
    missing = [name for name in SHARES if name not in set(packages["split"])]
    if missing:
        raise LogError(
            f"upworthy: no test is left for the split {missing[0]} ({packages['test'].nunique()} tests in "
            "all); take a file with more weeks"
        )
    return _measured(packages), len(again)


def _measured(packages: pd.DataFrame) -> pd.DataFrame:
    """With artwork_id, click rate, and share of the test's impressions."""
    packages["artwork_id"] = np.char.add("a", np.char.zfill(np.arange(len(packages)).astype(str), 6))
    packages["rate"] = packages["clicks"] / packages["impressions"]
    packages["share"] = packages["impressions"] / packages.groupby("test")["impressions"].transform("sum")
    return packages


def _groups(packages: pd.DataFrame, n: int, viewers: int, rng: np.random.Generator) -> pd.DataFrame:
    """n rows: a test drawn evenly, a package by its share, and a group of the package's viewers."""
    tests = packages["test"].nunique()
    row = np.sort(rng.choice(len(packages), size=n, p=packages["share"] / tests))
    clicks, impressions = (packages[name].to_numpy()[row].astype(int) for name in ("clicks", "impressions"))
    size = np.minimum(viewers, impressions)
    clicked = rng.hypergeometric(clicks, impressions - clicks, size)
    return pd.DataFrame(
        {"package": packages.index[row], "reward": clicked / size, "propensity": packages["share"].to_numpy()[row]}
    )


def _arms(packages: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Each package of as many tests as n rows hold (at least one), drawn evenly."""
    sizes = packages.groupby("test").size()
    drawn = sizes.iloc[rng.permutation(len(sizes))].cumsum()
    rows = packages[packages["test"].isin(drawn.index[(drawn <= n) | (np.arange(len(drawn)) == 0)])]
    return pd.DataFrame({"package": rows.index, "reward": rows["rate"], "propensity": 1 / rows["test"].map(sizes)})


def _tables(packages: pd.DataFrame, rows: pd.DataFrame) -> dict[str, pa.Table]:
    """Impressions and truth from rows of package (row of `packages`), reward and propensity."""
    package = rows["package"].to_numpy()
    test = packages["test"].to_numpy().astype(str)[package]
    code = pd.factorize(packages["test"])[0]  # tests lie together in `packages`
    first, k = np.unique(code, return_index=True)[1], np.bincount(code)
    of = code[package]
    mask = np.arange(k.max()) < k[of][:, None]
    offered = np.where(mask, first[of][:, None] + np.arange(k.max()), 0)

    def lists(name: str) -> pa.Array:
        return unpad(packages[name].to_numpy()[offered], mask)

    columns = {
        "impression_id": np.char.add("i", np.char.zfill(np.arange(len(rows)).astype(str), 6)),
        "user_id": np.char.add("viewers-", test),
        "title_id": np.char.add("w", test),
        "timestamp": np.array([_monday(week) for week in packages["week"].to_numpy()[package]]),
        "candidates": lists("artwork_id"),
        "shown": package - first[of],
        "propensity": rows["propensity"].to_numpy(),
        "reward": rows["reward"].to_numpy(),
        "production": lists("share"),
        "split": packages["split"].to_numpy()[package],
        "expected_reward": lists("rate"),
    }
    return {name: table(name, columns) for name in ("impressions", "truth")}


def _monday(week: int) -> int:
    """The Monday of a week such as 201446, in microseconds since 1970. Week 1 holds a year's first Monday (%W)."""
    monday = datetime.datetime.strptime(f"{week // 100} {week % 100} 1", "%Y %W %w").date()
    return (monday - datetime.date(1970, 1, 1)).days * 86_400_000_000


WORLD = World(
    "upworthy",
    build,
    sources.folder,
    frozen={"upworthy-1": Frozen({"seed": 0}, "9c80a382e7dfa26d56a1210b983eb01f1f8f3b6708b6c5054eebec072d808fb3")},
)
