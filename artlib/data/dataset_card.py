"""The dataset card of a log's folder, by which `datasets.load_dataset(folder, table)` finds the tables."""

from typing import Any

PROPENSITIES = {
    "logged": "logged by the system that showed the artworks",
    "estimated": "**estimated** from what was shown, not logged; all estimates that divide by them assume that nothing "
    "else decided",
    "none": "not known: the column is null, and off-policy estimators that divide by it are refused",
}


def card(log: Any) -> str:
    """README.md of a log: a configuration a table, in YAML front matter, and what the manifest says, in words.

    Args:
        log: a `Log`; this module stands below its.
    """
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in log.tables())
    rows = "".join(
        f"| {name} | {table.num_rows:,} | {', '.join(table.column_names)} |\n" for name, table in log.tables().items()
    )
    said = "".join(
        f"- {name}: {log.manifest[name]}\n" for name in ("world", "reward", "licence") if name in log.manifest
    )
    return (
        f"---\nconfigs:\n{configs}---\n\n# A log of shown artworks\n\n{said}"
        f"- propensities: {PROPENSITIES.get(log.propensities, log.propensities)}\n\n"
        f"| table | rows | columns |\n|---|---|---|\n{rows}\n"
        "Made by artlib; manifest.json has checksums. `python -m artlib validate FOLDER` checks the folder.\n"
    )
