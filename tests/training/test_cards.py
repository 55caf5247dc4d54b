"""The card that goes with each result: what it says of it, and what it never tells."""

from dataclasses import replace
from uuid import UUID

import yaml

from training_service.card import CardFacts, model_card, order_facts
from training_service.event import Score, Variant

TASK = str(UUID(int=9))


def facts(**changes: object) -> CardFacts:
    order = {"task_id": TASK, "owner_key": "secret-secret-secret", "method": "lora", "seed": 3, "lora": None}
    return replace(
        CardFacts(
            "adapter", "google/gemma-3-1b-it", "1" * 64, "2" * 64, order_facts(order), {"loss": 0.25}, {"torch": "2"}
        ),
        **changes,  # type: ignore[arg-type]  # names of its fields
    )


def front_of(card: str) -> dict[str, object]:
    loaded = yaml.safe_load(card.split("---")[1])
    assert isinstance(loaded, dict)
    return loaded


def test_a_card_says_what_it_is_for_and_how_it_was_made() -> None:
    card = model_card(facts())

    assert front_of(card)["base_model"] == "google/gemma-3-1b-it"
    assert front_of(card)["library_name"] == "peft"
    assert "PeftModel.from_pretrained" in card
    assert '"seed": 3' in card
    assert "| loss | 0.25 |" in card


def test_a_card_shows_the_variants_side_by_side() -> None:
    card = model_card(facts(scores=(Score(Variant.BASE, 2.5, {}), Score(Variant.TUNED, 0.5, {"exact_match": 1.0}))))

    assert "| base | 2.5 | – |" in card
    assert "| tuned | 0.5 | 1 |" in card
    assert front_of(card)["dataset_sha256"] == "2" * 64
    assert front_of(card)["metrics"] == ["loss"]


def test_a_card_tells_no_secret_no_task_and_no_path() -> None:
    card = model_card(facts(base="/home/someone/models/mine"))

    assert "base_model" not in front_of(card)
    assert not any(word in card for word in ("secret", TASK, "/home"))


def test_a_base_that_looks_like_yaml_stays_in_its_line() -> None:
    assert set(front_of(model_card(facts(base="a/b\nlicense: mit")))) == set(front_of(model_card(facts(base="x"))))
