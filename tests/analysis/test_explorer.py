"""The explorer: a card of any case, which follows what is chosen, and lets no error and no markup through."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("ipywidgets")

from artlib.analysis import explorer, posters


@pytest.fixture(scope="module")
def asked(small_log):
    """Log, test split, policies."""
    test = small_log.split("test")
    return small_log, test, {"production": test.arrays().production}


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def exploring(asked, seen) -> explorer.Explorer:
    return explorer.Explorer(*asked, show=seen.append)


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


def test_a_card_says_who_was_asked_what_and_what_came_of_it(asked):
    log, test, policies = asked
    row = int(np.flatnonzero(test.arrays().reward > 0)[0])
    card, asked_ = explorer.card(log, test, row, policies), test.impressions.slice(row, 1).to_pylist()[0]
    start, stop = (int(bound[row]) for bound in log.history.spans(test.impressions))
    assert asked_["user_id"] in card and f"watched {stop - start:,} title" in card and "the reward was\n1." in card
    latest = log.titles["name"][int(log.history.title[stop - 1])].as_py()
    assert re.search(rf"<ul[^>]*><li>{latest} ", card)  # the latest first
    assert card.count("<li>") == min(explorer.LATEST, stop - start)
    assert "true reward" in card and card.count("<img") == test.arrays().mask[row].sum()


def test_what_is_chosen_is_shown_and_the_other_lists_follow(asked, exploring, seen):
    _, test, _ = asked
    users = test.impressions["user_id"].to_pylist()
    assert not seen  # nothing is shown but when something is chosen
    user = next(user for user in users if users.count(user) > 1)
    exploring.member.value = user
    first = users.index(user)
    assert len(seen) == 1 and f"Member {user}" in seen[-1] and exploring.case.value == first + 1
    assert [row for _, row in exploring.title.options] == [row for row, own in enumerate(users) if own == user]
    second = exploring.title.options[1]
    exploring.title.value = second[1]
    assert len(seen) == 2 and seen[-1] == exploring.html(second[1]) and exploring.case.value == second[1] + 1
    exploring.case.value = len(users)
    assert len(seen) == 3 and f"Case {len(users)} of {len(users)}" in seen[-1]
    assert exploring.member.value == users[-1] and exploring.title.value == len(users) - 1


def test_every_pair_on_offer_exists_and_titles_seen_twice_are_told_apart(asked, exploring):
    log, test, _ = asked
    pairs = set(zip(test.impressions["user_id"].to_pylist(), test.impressions["title_id"].to_pylist(), strict=True))
    ids = dict(zip(log.titles["title_id"].to_pylist(), log.titles["name"].to_pylist(), strict=True))
    for user in exploring.member.options:
        options = exploring._titles(user)
        assert len({label for label, _ in options}) == len(options)
        for label, row in options:
            title = test.impressions["title_id"][row].as_py()
            assert (user, title) in pairs and label.startswith(ids[title])


def test_members_beyond_the_list_are_reached_by_number(asked, seen, monkeypatch):
    monkeypatch.setattr(explorer, "_OFFERED", 2)
    exploring = explorer.Explorer(*asked, show=seen.append)
    assert len(exploring.member.options) == 2
    exploring.case.value = 150
    assert "Case 150 of 150" in seen[-1] and exploring.member.value == asked[1].impressions["user_id"][149].as_py()


def test_an_error_is_shown_and_the_next_choice_works(exploring, seen, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(posters, "strip", lambda *_: 1 / 0)
        exploring.case.value = 7
    assert "ZeroDivisionError" in seen[-1] and "<pre" in seen[-1]
    exploring.case.value = 8
    assert "Case 8 of" in seen[-1] and len(seen) == 2
    monkeypatch.setattr(exploring, "_follow", lambda _: {}["<b>"])
    exploring.case.value = 9
    assert "KeyError: &#x27;&lt;b&gt;" in seen[-1]


def test_no_markup_of_the_log_gets_through(asked):
    log, test, _ = asked
    evil = "<script>alert('x')</script>"
    titles = with_column(log.titles, "name", [evil] * len(log.titles))
    titles = with_column(titles, "synopsis", [evil] * len(titles))
    titles = with_column(titles, "genres", [[evil]] * len(titles))
    artworks = with_column(log.artworks, "caption", [evil] * len(log.artworks))
    users = [f"{user}<i>" for user in test.impressions["user_id"].to_pylist()]
    histories = with_column(log.histories, "user_id", [f"{user}<i>" for user in log.histories["user_id"].to_pylist()])
    parts = {"titles": titles, "artworks": artworks, "histories": histories, "_shared": {}}
    part = dataclasses.replace(test, impressions=with_column(test.impressions, "user_id", users), **parts)
    log = dataclasses.replace(log, **parts)
    text = explorer.Explorer(log, part, {evil: part.arrays().production}).html(3)
    assert "Traceback" not in text and "<script" not in text and "<i>" not in text
    assert text.count("&lt;script&gt;") > 8


def test_logs_without_truth_pictures_or_history(asked):
    log, test, policies = asked
    bare = {"truth": None, "manifest": {"world": "own"}, "histories": log.histories.slice(0, 0), "_shared": {}}
    log, test = dataclasses.replace(log, **bare), dataclasses.replace(test, **bare)
    text = explorer.Explorer(log, test, policies).html(0)
    assert "watched 0 titles" in text and "<li>nothing yet</li>" in text and "mostly" not in text
    assert "true reward" not in text and "<img" not in text and "Traceback" not in text


def test_broken_pictures_do_not_break_a_card(asked):
    log, test, policies = asked
    artworks = with_column(log.artworks, "image", ["gone.png"] * len(log.artworks))
    log, test = (dataclasses.replace(part, artworks=artworks) for part in (log, test))
    text = explorer.Explorer(log, test, policies).html(0)
    assert text.count("This picture cannot be opened: gone.png") == test.arrays().mask[0].sum()


def test_outside_a_notebook_it_is_printed(asked, capsys):
    explorer.explore(*asked)
    assert "HTML object" in capsys.readouterr().out
