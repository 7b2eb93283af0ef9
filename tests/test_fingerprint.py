"""Whether what is kept answers the question that is asked."""

import types

from hypothesis import given
from hypothesis import strategies as st

from artlib import fingerprint

plain = st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2))
questions = st.dictionaries(
    st.text(max_size=3), plain | st.dictionaries(st.text(max_size=3), plain, max_size=3), max_size=4
)


@given(questions, questions)
def test_only_the_same_question_is_answered(kept, asked):
    assert fingerprint.changed(asked | {"an answer": 1}, asked) == []
    if all(name in kept and kept[name] == value for name, value in asked.items()):
        assert fingerprint.changed(kept, asked) == []
    else:
        assert fingerprint.changed(kept, asked)


def test_what_changed_is_named_and_what_decides_nothing_is_not():
    kept = {"settings": {"epochs": 1, "dtype": "float32", "old": 3}, "code": "a"}
    asked = {"settings": {"epochs": 2, "dtype": "bfloat16"}, "code": "a", "log": "b"}
    assert fingerprint.changed(kept, asked, but="dtype") == ["settings.epochs", "settings.old", "log"]
    assert fingerprint.changed(None, {"code": None}) == ["code"]


def test_code_from_outside_counts_by_its_file_and_that_of_a_notebook_by_itself(tmp_path, monkeypatch):
    from artlib.posttrain.objectives import dpo, sft

    assert fingerprint.code_from_outside(sft, dpo) == ""
    monkeypatch.syspath_prepend(tmp_path)

    def digest(text: str) -> str:
        (tmp_path / "mine.py").write_text(text)
        module = types.ModuleType("mine")
        exec(compile(text, str(tmp_path / "mine.py"), "exec"), module.__dict__)
        return fingerprint.code_from_outside(module.f)

    assert digest("def f(x):\n    return x\n") == digest("def f(x):\n    return x\n")
    assert digest("def f(x):\n    return x\n") != digest("def f(x):\n    return 2 * x\n")
    namespace: dict = {}
    exec("def f(x): return x", namespace)  # nobody knows where this is from
    assert fingerprint.code_from_outside(namespace["f"]) != fingerprint.code_from_outside(namespace["f"])
