"""A person's turn: finding it and filling it in."""

import pytest

from bus.cli.people import Item, find_item, read_fields
from bus.errors import BodyInvalid, Refused
from bus.spec.compile import load_protocol

newsroom = load_protocol("newsroom")
REVISE = newsroom.messages[newsroom.message_index("Revise")]


def item(conversation, role="editor"):
    return Item(newsroom, [REVISE], {"conversation": bytes.fromhex(conversation * 16), "role": role})


def test_the_beginning_of_an_id_is_enough():
    items = [item("ab"), item("cd")]

    assert find_item(items, "CD") is items[1]


def test_an_id_that_nothing_waits_for_is_refused():
    with pytest.raises(Refused, match="nothing waits for you in conversation 'ff'"):
        find_item([item("ab")], "ff")


def test_an_id_that_means_several_turns_is_refused_with_their_roles():
    with pytest.raises(Refused, match=r"\(editor\), .*\(second\): give more of the id, or --role"):
        find_item([item("ab"), item("ab", "second")], "ab")


def test_pairs_win_over_json():
    given = read_fields(newsroom, REVISE, '{"comments": "a", "section": "x"}', ["comments=b = c"])

    assert given == {"comments": "b = c", "section": "x"}


@pytest.mark.parametrize(
    ("body", "pairs", "message"),
    [
        ("{", [], "Revise: expected JSON"),
        ("[]", [], "Revise: expected a JSON object"),
        (None, ["comments"], "expected NAME=VALUE, got 'comments'"),
        (None, ["coments=x"], r"did you mean 'comments'\?"),
    ],
)
def test_what_is_no_field_is_refused(body, pairs, message):
    with pytest.raises(BodyInvalid, match=message):
        read_fields(newsroom, REVISE, body, pairs)
