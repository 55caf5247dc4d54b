"""Random bodies: valid for every message type that ships, and as varied as their types."""

from random import Random

import pytest

from bus.errors import BodyInvalid
from bus.spec.compile import compile_protocol, load_protocol
from bus.spec.protocol import Protocol
from bus.testing.random_message import random_message

RUNS = 100


def protocol(fields: str, more: str = "") -> Protocol:
    return compile_protocol(
        f"language: 1\nprotocol: p\nversion: 1.0.0\nroles: {{a: {{}}, b: {{}}}}\n"
        f"types: {{Pair: {{fields: {{left: int, right: optional string}}}}}}\n"
        f"messages: {{M: {{fields: {{{fields}}}{more}}}, N: {{fields: {{pair: Pair}}}}}}\n"
        f"conversation:\n- a -> b: M\n- b -> a: N\n"
    )


def bodies(fields: str, more: str = "") -> list[dict[str, object]]:
    made = protocol(fields, more)
    message_type = made.messages[0]
    return [message_type.to_plain(random_message(made, 0, Random(seed))) for seed in range(RUNS)]  # type: ignore[arg-type]  # of its class


@pytest.mark.parametrize("name", ["echo", "generation", "newsroom", "task", "training"])
def test_every_message_that_ships_has_random_bodies(name: str) -> None:
    shipped = load_protocol(name)

    for message_type in shipped.messages:
        for seed in range(5):
            random_message(shipped, message_type.index, Random(seed))


def test_numbers_stay_within_their_bounds_and_meet_them() -> None:
    drawn = {body["n"] for body in bodies("n: {type: int, min: -3, max: 7}")}

    assert drawn <= set(range(-3, 8))
    assert {-3, 7} <= drawn


def test_texts_keep_to_their_lengths_and_patterns() -> None:
    lengths = {len(str(body["t"])) for body in bodies("t: {type: string, min_len: 2, max_len: 5}")}
    matching = {str(body["t"]) for body in bodies('t: {type: string, pattern: "^[a-z]{2,4}-(x|yz)[0-9]+$"}')}

    assert {2, 5} <= lengths <= {2, 3, 4, 5}
    assert len(matching) > 20


def test_optional_fields_come_and_go() -> None:
    drawn = [body["t"] for body in bodies("t: optional string")]

    assert None in drawn
    assert any(isinstance(text, str) for text in drawn)


def test_rules_hold() -> None:
    for body in bodies("low: {type: int, min: 0, max: 9}, high: {type: int, min: 0, max: 9}", ", rules: [low <= high]"):
        assert body["low"] <= body["high"]  # type: ignore[operator]  # both are int


def test_a_rule_that_chance_cannot_meet_takes_an_example() -> None:
    more = ", rules: ['n == 424242'], examples: [{n: 424242}]"

    assert {body["n"] for body in bodies("n: int", more)} == {424242}


def test_a_rule_that_nothing_meets_is_told() -> None:
    with pytest.raises(BodyInvalid, match="n == 434343"):
        bodies("n: int", ", rules: ['n == 434343']")


def test_settled_fields_are_kept() -> None:
    made = protocol("n: int")

    message = random_message(made, 0, Random(0), given={"n": 5, "other": 1})

    assert made.messages[0].to_plain(message) == {"n": 5}  # type: ignore[arg-type]  # of its class


def test_structs_are_filled() -> None:
    made = protocol("n: int")

    assert isinstance(made.messages[1].to_plain(random_message(made, 1, Random(0)))["pair"], dict)  # type: ignore[arg-type]  # of its class
