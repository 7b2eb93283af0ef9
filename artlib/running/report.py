"""Tables of README and docs, made of what results/*.json hold.

A page says where: `<!-- table: NAME -->` begins one and `<!-- end -->` ends it; what stands between is replaced.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from artlib import ArtlibError, files
from artlib.analysis import comparison
from artlib.policies.given import BUILT_IN

PAGES = ("README.md", "docs/results.md", "docs/speed.md", "docs/benchmark.md")
BLOCK = re.compile(r"<!-- table: (?P<name>[\w -]+) -->\n.*?<!-- end -->", re.DOTALL)


class ReportError(ArtlibError, ValueError):
    """A table that nothing was measured for."""


def write(root: Path) -> list[str]:
    """Bring the tables of all pages up to date.

    Args:
        root: of the repository.

    Returns:
        The pages that changed.
    """
    changed = outdated(root)
    for page, text in changed.items():
        with files.replacing(root / page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(changed)


def outdated(root: Path) -> dict[str, str]:
    """Pages whose tables differ from what was measured, and what they should say."""
    found = {}
    for page in PAGES:
        path = root / page
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = BLOCK.sub(lambda block: filled(root, block["name"]), old)
        if new != old:
            found[page] = new
    return found


def filled(root: Path, name: str) -> str:
    """A block with its table.

    Raises:
        ReportError: there is no such table, or no record of it.
    """
    kind, _, which = name.partition(" ")
    if kind not in TABLES:
        raise ReportError(f"no table is called {name!r}; there are {', '.join(TABLES)}")
    make, record = TABLES[kind]
    path = root / "results" / record.format(which)
    if not path.exists():
        raise ReportError(f"table {name!r}: {path} is missing; measure it first, or take the table out")
    return f"<!-- table: {name} -->\n{make(path)}\n<!-- end -->"


def markdown(table: pd.DataFrame) -> str:
    """A frame as a Markdown table, without its index."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _short(commit: str | None) -> str:
    return commit[:7] if commit else "unknown"


def values(path: Path) -> str:
    """What every policy of a published run is worth."""
    record = files.read_json(path)
    evaluated, trained = record["results"]["03_evaluate"], record["results"]["02_train_lora"]
    rows = []
    for row in evaluated["values"]:
        lift = "" if row["policy"] == "production" else _interval(row, "lift", "lift_lower", "lift_upper", ".1%")
        rows.append(
            {
                "policy": row["policy"],
                "value": _interval(row, "value", "lower", "upper", ".3f"),
                "lift over production": lift,
            }
        )
    machine, seconds = trained["machine"], sum(record["seconds"].values())
    said = (
        f"`{record['command']}`, commit {_short(record['commit'])}, {seconds / 60:.1f} min on {machine['threads']} "
        f"threads of {machine['device']} in {machine['dtype']}; {trained['examples']:,} plays learnt from, n = "
        f"{evaluated['n']:,} test impressions, by {evaluated['estimator']}; 95 % intervals clustered by member."
    )
    return f"{markdown(pd.DataFrame(rows))}\n\n{said}"


def _interval(row: dict, mean: str, lower: str, upper: str, form: str) -> str:
    sign = "+" if "%" in form else ""
    m, low, high = (f"{row[name]:{sign}{form}}".replace("%", " %") for name in (mean, lower, upper))
    return f"{m} ({low.removesuffix(' %')}, {high.removesuffix(' %')})"


def methods(path: Path) -> str:
    """The entries of a comparison: the first seed with its interval, then other seeds; means over seeds."""
    rows = []
    for entry, part in comparison.read(path).sort_values("seed", kind="stable").groupby("entry", sort=False):
        first, lifts = part.iloc[0], {}
        for name in ("lift", "over_text"):
            others = "".join(f"; {100 * lift:+.1f}" for lift in part[name].iloc[1:])
            own = _interval(first, name, f"{name}_lower", f"{name}_upper", ".1%")
            lifts[name] = "" if first.isna()[name] else own + others
        by_title = 100 * part[["over_text_by_title_lower", "over_text_by_title_upper"]].to_numpy()
        intervals = [f"({low:+.1f}, {high:+.1f})" if low == low else "?" for low, high in by_title]
        shares = {name: part[name].mean() for name in ("gap_closed", "gap_on_validation")}
        rows.append(
            {
                "entry": entry,
                "learns from": "" if first.isna()["examples"] else f"{first['examples']:,.0f} {first['learns_from']}",
                "n": f"{first['n']:,}",
                "lift over production": lifts["lift"],
                "over text": lifts["over_text"],
                "by title": "; ".join(intervals) if {*intervals} != {"?"} else "",
                **{
                    name.replace("_", " "): "" if share != share else f"{share:.0%}".replace("%", " %")
                    for name, share in shares.items()
                },
                "minutes": "" if part["minutes"].isna().all() else f"{part['minutes'].mean():.0f}",
            }
        )
    table = pd.DataFrame(rows)
    return markdown(table.drop(columns=[name for name in table if not table[name].any()]))


def coverage(folder: Path) -> str:
    """By log: of how many policies each estimator's interval holds the true lift, and how wide intervals are."""
    rows = []
    for path in sorted(folder.glob("methods-*.json")):
        table = comparison.coverage(path)
        if table.empty:
            continue
        row = {"log": path.stem.removeprefix("methods-"), "policies": table["policies"].max()}
        row |= {name.upper(): f"{part['covered']:.0f}, ± {part['half_width']:.0%}" for name, part in table.iterrows()}
        rows.append(row | {"verdicts that warn": int((table["policies"] - table["trusted"]).max())})
    return markdown(pd.DataFrame(rows)).replace("%", " %")


def forms(path: Path) -> str:
    """Forms of the score: share of the gap that is closed, and the cross-entropy of the plays."""
    table = pd.DataFrame(files.read_json(path)["rows"])
    table["said"] = [
        f"{100 * gap:.0f} %, {loss:.3f}" for gap, loss in zip(table["gap_closed"], table["loss"], strict=True)
    ]
    wide = table.pivot(index="form", columns="model", values="said").loc[
        table["form"].unique(), table["model"].unique()
    ]
    return markdown(wide.reset_index())


def speed(path: Path) -> str:
    """Impressions a second, in scoring and training, and how many times those of each peer; what was measured how."""
    records = files.read_json(path)
    tables = []
    for what, done in (("scoring", "scored"), ("training", "trained")):
        peers = dict.fromkeys(name for record in records.values() for name in record[what] if name != "ours")
        rows = []
        for key, record in records.items():
            own = record[what]["ours"]
            row = {"model, prompt": key, f"{done} a second": f"{own['per_second']:.3g}"}
            row |= {f"times {name}": _ratio(record[what].get(name)) for name in peers}
            row["of a matrix product's rate"] = f"{own['utilisation']:.0%}".replace("%", " %")
            rows.append(row | ({"peak GiB": f"{own['peak_gib']:.1f}"} if "peak_gib" in own else {}))
        tables.append(markdown(pd.DataFrame(rows)))
    said = [
        f"- {key}: `{record['command']}`, {record['date']}, commit {_short(record['commit'])}, {record['impressions']} "
        f"impressions, {record['impressions_per_title']} a title, adapters in {record['lora_layers']} layers, "
        f"{record['machine']['threads']} threads of {record['machine']['device']} in {record['machine']['dtype']}, "
        f"load before {record['load']:.1f}"
        for key, record in records.items()
    ]
    return "\n\n".join([*tables, "\n".join(said)])


def _ratio(peer: dict | None) -> str:
    return f"{peer['ratio']:.3g} ({peer['lowest']:.3g}, {peer['highest']:.3g})" if peer else ""


def worth(path: Path) -> str:
    """What knowing is worth in each kind of catalogue, as lifts over production."""
    record = files.read_json(path)
    tables = []
    for kind, rows in record["kinds"].items():
        columns = ["what is known", "everywhere", "warm titles", "cold titles", "tastes read off histories"]
        frame = pd.DataFrame(rows)[columns].set_index("what is known")
        text = frame.map(lambda lift: "" if lift is None or lift != lift else f"{lift:+.0%}".replace("%", " %"))
        tables.append(f"With {kind} genres:\n\n{markdown(text.reset_index())}")
    sizes = record["sizes"]
    said = (
        f"`{record['command']}`, commit {_short(record['commit'])}; {sizes['n_users']:,} members, "
        f"{sizes['n_titles']} titles, {sizes['n_test']:,} test impressions, mean over {len(record['seeds'])} seeds."
    )
    return "\n\n".join([*tables, said])


def clicks(path: Path) -> str:
    """What policies' choices of headlines bring in real clicks, and what was measured how."""
    record, rows = files.read_json(path), []
    for row in record["rows"]:
        over = row["over_baseline"]
        rows.append(
            {
                "policy": row["policy"],
                "": row["meaning"],
                "tests": f"{row['n']:,}",
                "clicks over uniform": _interval(row["lift"], "mean", "lower", "upper", ".1%"),
                "over ridge, same tests": _interval(over, "mean", "lower", "upper", ".1%") if over else "",
            }
        )
    told = [fold for row in record["rows"] for fold in row["told"]]
    commits = sorted({f"{fold['commit']}"[:7] for fold in told})
    machines = sorted({f"{fold['machine']['threads']} thread(s) of {fold['machine']['device']}" for fold in told})
    said = (
        f"`{record['command']}`, commits {', '.join(commits)}, {' and '.join(machines)}; 95 % intervals by a bootstrap "
        "over tests."
    )
    return f"{markdown(pd.DataFrame(rows))}\n\n{said}"


def benchmark(folder: Path) -> str:
    """The entries of a log of the benchmark, of files that `python -m artlib evaluate --out` wrote, the worst first."""
    records = {path: files.read_json(path) for path in sorted(folder.glob("*.json"))}
    digest, parts, owner = None, [], {}
    for path, record in records.items():
        if record is None or not {"log", "split", "rows"} <= record.keys():
            raise ReportError(f"{path} is no entry; write it with python -m artlib evaluate --out")
        if record["split"] != "test":
            raise ReportError(f"{path} is of the {record['split']} split; entries are of test")
        digest = digest or record["log"]["digest"]
        if record["log"]["digest"] != digest:
            raise ReportError(f"{path} is of another log: its digest is {record['log']['digest']}, not {digest}")
        part = pd.DataFrame(record["rows"])
        for name in set(part["policy"]) - BUILT_IN:
            if owner.setdefault(name, path) != path:
                raise ReportError(f"{path} and {owner[name]} both have a policy {name!r}; name one of them otherwise")
        parts.append(part)
    rows = pd.concat(parts)
    best = "truth" if (rows["estimator"] == "truth").any() else "ips"
    rows = rows[rows["estimator"] == best].drop_duplicates("policy").sort_values("value").to_dict("records")
    table = [
        {
            "policy": row["policy"],
            "n": f"{row['n']:,}",
            "value": _interval(row, "value", "lower", "upper", ".4f"),
            "lift over production": ""
            if row["policy"] == "production"
            else _interval(row, "lift", "lift_lower", "lift_upper", ".1%"),
        }
        for row in rows
    ]
    return f"{markdown(pd.DataFrame(table))}\n\nBy {best}; digest `{digest[:16]}`."


TABLES: dict[str, tuple[Callable[[Path], str], str]] = {
    "values": (values, "{}.json"),
    "methods": (methods, "methods-{}.json"),
    "coverage": (coverage, ""),
    "forms": (forms, "forms.json"),
    "speed": (speed, "speed.json"),
    "worth": (worth, "worth.json"),
    "clicks": (clicks, "clicks.json"),
    "benchmark": (benchmark, "benchmark/{}"),
}
