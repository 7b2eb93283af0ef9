"""The pages: links lead somewhere, and "How it works" has every prompt, method and world."""

import re
from pathlib import Path

import pytest

from artlib import worlds
from artlib.lm.prompts import PROMPTS
from artlib.posttrain.settings import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _CODE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


def rows(heading: str) -> dict[str, list[str]]:
    """The table under a heading of "How it works": what its first cells name in backticks, and the rest of the row."""
    page = (ROOT / "docs" / "how_it_works.md").read_text()
    section = re.search(rf"^## {heading}.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL).group()
    table = [line.replace("\\|", "").strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    return {re.search("`([^`]+)`", first).group(1): rest for first, *rest in table}


def test_every_prompt_is_explained():
    assert set(rows("Prompts")) == set(PROMPTS)


def test_every_method_is_explained_with_what_it_begins_and_learns_from():
    table = rows("Methods")
    assert set(table) == set(METHODS)
    for name, (_, begins, learns) in table.items():
        method = METHODS[name]
        assert begins.startswith(f"`{method.refines}`" if method.refines else "the bare model"), name
        assert ("all impressions" in learns) == (method.learns_from == "impressions"), name


def test_every_world_is_explained():
    named = {re.split(r"[,:]", name)[0] for name in rows("Worlds")}
    assert named == set(worlds.known())
