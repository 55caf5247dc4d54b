"""Messages as people write them."""

import json

import pytest

from bus.cli.message_text import (
    build_message,
    describe_field,
    fields_of,
    find_message_type,
    read_field,
    read_values,
)
from bus.errors import BodyInvalid, NotAllowed
from bus.spec.compile import load_protocol
from bus.spec.json_schema import is_required

newsroom = load_protocol("newsroom")
BRIEF = newsroom.messages[newsroom.message_index("Brief")]
REVISE = newsroom.messages[newsroom.message_index("Revise")]
KILL = newsroom.messages[newsroom.message_index("Kill")]


def no_lines():
    return iter(())


def test_an_argument_is_json():
    assert list(read_values('{"topic": "x"}', no_lines)) == [{"topic": "x"}]


def test_a_dash_reads_one_value_a_line():
    assert list(read_values("-", lambda: iter(['{"a": 1}\n', "\n", '{"b": 2}\n']))) == [{"a": 1}, {"b": 2}]


def test_an_at_sign_reads_a_file_with_one_value_or_a_list(tmp_path):
    (tmp_path / "one.json").write_text('{"a": 1}')
    (tmp_path / "many.json").write_text('[{"a": 1}, {"b": 2}]')

    assert list(read_values(f"@{tmp_path}/one.json", no_lines)) == [{"a": 1}]
    assert list(read_values(f"@{tmp_path}/many.json", no_lines)) == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("text", ["{broken", "@/no/such/file", "[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(BodyInvalid, match="expected"):
        list(read_values(text, no_lines))


def test_a_line_that_is_no_json_is_named_by_its_number():
    with pytest.raises(BodyInvalid, match="standard input, line 2"):
        list(read_values("-", lambda: iter(["{}", "oops"])))


def test_the_type_may_be_named():
    message = build_message(newsroom, {"Kill": {"reason": "old"}}, [BRIEF])

    assert isinstance(message, newsroom.Kill)


def test_fields_alone_are_enough_where_one_type_fits():
    assert build_message(newsroom, {"topic": "Batteries"}, [BRIEF]).topic == "Batteries"


def test_fields_alone_are_refused_where_several_fit():
    with pytest.raises(BodyInvalid, match=r'expected \{"Revise": \{…\}\} or \{"Kill": \{…\}\}, got an object with'):
        build_message(newsroom, {"reason": "old"}, [REVISE, KILL])


@pytest.mark.parametrize("allowed", [[REVISE, KILL], [KILL]])
def test_a_mistyped_type_names_the_nearest(allowed):
    with pytest.raises(BodyInvalid, match=r"did you mean 'Kill'\?"):
        build_message(newsroom, {"Kil": {"reason": "old"}}, allowed)


@pytest.mark.parametrize("value", [[], "text", 1, None])
def test_only_objects_are_messages(value):
    with pytest.raises(BodyInvalid, match="expected a JSON object"):
        build_message(newsroom, value, [BRIEF])


def test_a_wrong_field_is_refused_by_the_type_itself():
    with pytest.raises(BodyInvalid, match="Brief: topic"):
        build_message(newsroom, {"topic": 1}, [BRIEF])


def test_a_type_that_is_not_allowed_now_is_refused_with_those_that_are():
    with pytest.raises(NotAllowed, match=r"expected one of Revise, Kill in newsroom now, .* did you mean 'Kill'"):
        find_message_type(newsroom, "Kil", [REVISE, KILL])


def test_text_fields_need_no_quotes_and_others_are_json():
    fields = {field.name: field for field in fields_of(newsroom, BRIEF)}

    assert read_field(fields["topic"], "12") == "12"
    assert read_field(fields["language"], "en") == "en"
    assert read_field(fields["depth"], "3") == 3
    with pytest.raises(BodyInvalid, match="depth: expected JSON"):
        read_field(fields["depth"], "three")


def test_a_field_says_what_it_takes():
    shown = {field.name: describe_field(field) for field in fields_of(newsroom, BRIEF)}

    assert shown["topic"] == "string"
    assert shown["depth"].startswith("int (default 2): How many")
    assert shown["language"] == f"en | id | ja (default {json.dumps('en')})"
    assert [is_required(field) for field in fields_of(newsroom, REVISE)] == [True, False]
