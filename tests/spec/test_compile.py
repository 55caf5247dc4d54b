"""Loading and compiling: where specs are found, what a Protocol offers, when two are the same."""

import copy
import gc
import weakref

import pytest
from protocol_text import DATA, HEAD, small

import bus.spec.compile as compiling
from bus.errors import SpecError
from bus.spec.compile import check_text, compile_protocol, load_protocol
from bus.spec.digest import digest

SHIPPED = ("echo", "generation", "newsroom", "task", "training")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_protocols_load_by_name_and_without_a_warning(name):
    protocol = load_protocol(name)

    assert protocol.name == name
    assert check_text(protocol.spec.source)[1] == []


def test_every_element_of_a_shipped_protocol_is_documented():
    for name in SHIPPED:
        spec = load_protocol(name).spec
        assert spec.doc, name
        assert all(doc for _, doc in spec.outcomes), name


def test_a_bare_name_is_looked_for_nearest_first(tmp_path, monkeypatch):
    for folder in ("given", "variable", "here/specs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PALAVER_SPECS", str(tmp_path / "variable"))
    found = []
    for folder in ("here", "here/specs", "variable", "given"):
        text = small().replace("small", "near")
        (tmp_path / folder / "near.protocol.yaml").write_text(text.replace("1.0.0", f"1.0.{len(found)}"))
        found.append(load_protocol("near", search=[tmp_path / "given"]).version)

    assert found == ["1.0.0", "1.0.1", "1.0.2", "1.0.3"]


def test_a_path_is_taken_as_it_is(tmp_path):
    path = tmp_path / "any name.yaml"
    path.write_text(small())

    assert load_protocol(path) is load_protocol(str(path)) is compile_protocol(small())


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match=r"newsrom.*did you mean 'newsroom'\?"):
        load_protocol("newsrom")


def test_a_wrong_file_is_refused_with_every_finding(tmp_path):
    path = tmp_path / "wrong.protocol.yaml"
    path.write_text(small(conversation="- a -> bb: M\n- a -> b: Mm"))

    with pytest.raises(SpecError) as caught:
        load_protocol(path)

    assert str(caught.value).splitlines() == [str(one) for one in caught.value.diagnostics]
    assert [f"{path}:{line}:5" for line in (7, 8)] == [str(one.mark) for one in caught.value.diagnostics]


def test_message_types_and_structs_are_attributes():
    newsroom = load_protocol("newsroom")

    assert newsroom.Draft.__name__ == "Draft"
    assert newsroom.Source(url="file:x", title="t").trust == 0.5
    assert "Draft" in dir(newsroom)
    assert load_protocol("training").Artifact is load_protocol("task").Artifact


def test_a_wrong_attribute_is_told_with_the_nearest():
    with pytest.raises(AttributeError, match=r"newsroom, got 'Drafft'; did you mean 'Draft'\?"):
        load_protocol("newsroom").Drafft  # noqa: B018  # asking is the test


def test_a_role_knows_its_protocol_and_place():
    newsroom = load_protocol("newsroom")
    editor = newsroom.role("editor")

    assert (editor.protocol, editor.name, editor.human, editor.pool) == (newsroom, "editor", True, False)
    assert newsroom.roles[editor.index].name == "editor"
    assert newsroom.role("researcher").pool
    assert str(editor) == "editor of newsroom"


@pytest.mark.parametrize("look_up", ["role", "role_index", "message_index"])
def test_an_unknown_name_is_told_with_those_that_exist(look_up):
    with pytest.raises(LookupError, match=r"expected a .* of newsroom \(.*\), got 'nobody'"):
        getattr(load_protocol("newsroom"), look_up)("nobody")


def test_a_protocol_shows_itself_shortly_and_can_be_copied_by_reference():
    echo = load_protocol("echo")

    assert repr(echo) == f"<Protocol echo 1.0.0 {echo.digest}>"
    assert echo.identity == "echo@1"
    assert not hasattr(echo, "__wrapped__")
    assert copy.copy(echo).name == "echo"


def test_outcomes_always_hold_failed_and_canceled_once():
    assert load_protocol("newsroom").outcomes == ("published", "spiked", "failed", "canceled")
    assert load_protocol("task").outcomes == ("completed", "failed", "canceled", "rejected")


def test_a_conversation_that_can_fall_off_its_end_is_done():
    assert compile_protocol(small()).outcomes == ("failed", "canceled", "done")


def test_what_means_the_same_is_the_same_object():
    first = compile_protocol(small("M: {fields: {x: int}}"), file="one.yaml")
    other = small(
        "M: {doc: Said., fields: {x: {type: int, doc: A number., example: 3}}, examples: [{x: 1}]}", doc="Words."
    )

    second = compile_protocol("# layout\n" + other, file="two.yaml")

    assert second is first
    assert second.M is first.M


@pytest.mark.parametrize(
    "change",
    [
        ("1.0.0", "1.0.1"),
        ("x: int", "x: number"),
        ("x: int", "y: int"),
        ("x: int", "x: {type: int, min: 0}"),
        ("a -> b: M", "b -> a: M"),
        ("b: {}", "b: {pool: true}"),
        ("roles: {a: {}, b: {}}", "roles: {b: {}, a: {}}"),
        ("- a -> b: M", "- {a -> b: M, within: 1s}"),
        ("x: int", "x: {type: int, default: 0}"),
        ("x: int", "x: {type: int, default: 1}"),
        ("x: int", "x: {type: int, secret: true}"),
        ("protocol: small", "protocol: tiny"),
    ],
)
def test_what_means_something_else_has_another_digest(change):
    text = small("M: {fields: {x: int}}")

    assert digest(check_text(text.replace(*change))[0]) != digest(check_text(text)[0])


def test_the_digest_is_the_same_on_every_machine():
    assert compile_protocol(small()).digest == "7f1432f256a9c889"


def test_a_protocol_that_nobody_holds_is_forgotten():
    text = small().replace("1.0.0", "7.7.7")
    protocol = weakref.ref(compile_protocol(text))

    compiling._compile.cache_clear()  # what 64 other texts would do
    gc.collect()

    assert protocol() is None


def test_every_protocol_of_the_language_page_compiles_without_a_word():
    text = (DATA / "contract-net.protocol.yaml").read_text(encoding="utf-8")

    assert check_text(text)[1] == []
    assert compile_protocol(text).has_members


def test_a_text_without_a_conversation_is_told_and_nothing_follows_from_it():
    assert [one.message for one in check_text(HEAD)[1]] == [
        "protocol file: expected 'messages', which is missing",
        "protocol file: expected 'conversation', which is missing",
    ]
