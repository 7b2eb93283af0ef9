"""What is accepted of a captioner, and how it becomes one caption within its budget."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pictures import FIELDS, answer

from artlib.captions import schema

GOOD = answer(1)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"Sure! Here it is:\n```json\n{json.dumps(GOOD, indent=2)}\n```\nAnything else {{today}}?",
        f"<think>{{draft}} {json.dumps(answer(2))}</think>{json.dumps(GOOD)}",
        json.dumps(GOOD | {"genre": "drama", "score": 3}),
        json.dumps(GOOD) + '{"note": "what follows has none of the fields"}',
    ],
)
def test_the_json_object_is_found_in_whatever_is_around_it(text):
    assert schema.fields(text) == GOOD


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("A dog.", "no JSON object", "no whole JSON object"),
        ("", "no JSON object", "no whole JSON object"),
        (json.dumps(GOOD)[:-1], "no JSON object", "no whole JSON object"),
        ('{"scene": ' * 5000, "no JSON object", "no whole JSON object"),
        ("{" * 100_000, "no JSON object", "no whole JSON object"),
        ('{"scene": "a dog"}', "missing field", "people: Field required"),
        (json.dumps(GOOD | {"palette": ["red", "blue"]}), "wrong type", "palette: Input should be a valid string"),
        (json.dumps(GOOD | {"mood": None}), "wrong type", "mood: Input should be a valid string"),
        (json.dumps(GOOD | {"mood": "calm " * 9}), "too long", "mood has 9 words; give at most 4"),
        (json.dumps(GOOD | {"scene": " None. "}), "empty", "scene is empty"),
    ],
)
def test_an_answer_of_no_use_has_a_kind_and_is_told_what_is_wrong(text, kind, told):
    with pytest.raises(schema.Fault) as caught:
        schema.fields(text)
    assert caught.value.kind == kind and told in str(caught.value)


def test_fields_become_one_caption_and_those_without_anything_are_left_out():
    said = {
        "scene": "a rocket on a hill.",
        "people": "nobody",
        "setting": "night\nin a desert",
        "mood": "",
        "palette": "blue and gold",
        "composition": "rocket left, moon right",
        "text": '"LIFT OFF"',
    }
    assert schema.caption(said) == (
        "A rocket on a hill. Setting: night in a desert. Palette: blue and gold. "
        "Composition: rocket left, moon right. Text: LIFT OFF."
    )


def test_what_no_file_could_hold_is_left_out():
    said = schema.fields(json.dumps(GOOD | {"text": "\ud800 A\x00B \ud83d\ude00"}))  # half of a pair, and a whole one
    assert schema.caption(said).encode().decode().endswith("Mood: calm. Text: A B \U0001f600.")


def test_a_field_over_its_budget_is_cut_at_a_pause_if_one_is_near():
    most = schema.budgets()["scene"]
    assert most == 15
    words = [f"w{i}" for i in range(20)]
    assert schema.caption(GOOD | {"scene": " ".join(words), "mood": ""}) == f"W0 {' '.join(words[1:15])}."
    late, early = words.copy(), words.copy()
    late[9] += ","
    early[3] += ","
    assert schema.caption(GOOD | {"scene": " ".join(late), "mood": ""}).endswith(" w9.")
    assert schema.caption(GOOD | {"scene": " ".join(early), "mood": ""}).endswith(" w14.")


@given(
    st.integers(schema.FEWEST_WORDS, 200),
    st.lists(st.text("ab ,.\n\"'—ü", max_size=400), min_size=len(FIELDS), max_size=len(FIELDS)),
)
def test_no_caption_is_longer_than_its_budget(words, texts):
    caption = schema.caption(dict(zip(FIELDS, texts, strict=True)), words)
    assert len(caption.split()) <= words and caption == " ".join(caption.split())


def test_the_prompt_and_the_response_format_ask_for_the_same_fields():
    (kind, asked) = schema.response_format().values()
    assert kind == "json_schema" and list(asked["schema"]["properties"]) == list(schema.FIELDS) == list(FIELDS)
    assert asked["schema"]["required"] == list(FIELDS) and asked["schema"]["additionalProperties"] is False
    assert all(f"- {name} (at most {most} words): " in schema.prompt(90) for name, most in schema.budgets(90).items())


def test_another_budget_or_picture_size_is_another_question():
    assert len({schema.version(60, 768), schema.version(90, 768), schema.version(60, 512)}) == 3


def test_too_few_words_for_all_fields_are_refused():
    assert min(schema.budgets(schema.FEWEST_WORDS).values()) >= 1
    with pytest.raises(schema.CaptionError, match="words = 29 .* at least 30"):
        schema.budgets(29)
