"""What an agent must have handlers for, before it is launched."""

import pytest
from work_protocol import work

from bus.errors import LocalProtocolError, MissingHandler
from bus.sdk.agent import Agent
from bus.sdk.duty import find_duties
from bus.sdk.notice import DeadlinePassed, Ended, LoopEnded, Opened
from bus.sdk.part import part_of
from bus.spec.compile import load_protocol

newsroom = load_protocol("newsroom")
training = load_protocol("training")


def triggers(protocol: object, role: str) -> set[str]:
    part = part_of(protocol, protocol.role_index(role))  # type: ignore[attr-defined, arg-type]  # a Protocol
    found = set()
    for duty in find_duties(part):
        found.add(part.messages[duty.trigger].name if isinstance(duty.trigger, int) else duty.trigger.__name__)
    return found


def test_role_must_handle_what_makes_it_owe_a_message() -> None:
    assert triggers(newsroom, "researcher") == {"Brief"}
    assert triggers(newsroom, "summarizer") == {"FindingsDone"}


def test_bus_events_after_which_a_role_must_speak_are_duties() -> None:
    assert triggers(newsroom, "writer") == {"Digest", "Approve", "Revise", "Kill", "DeadlinePassed", "LoopEnded"}


def test_first_speaker_must_handle_opened() -> None:
    assert triggers(newsroom, "desk") == {Opened.__name__}


def test_receiver_of_an_interrupt_handles_the_message_and_not_a_notice() -> None:
    assert {"Stop", "Ask"} == triggers(work, "worker")
    assert "Interrupted" not in triggers(training, "trainer")


def test_agent_without_a_needed_handler_is_refused_by_name() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    @agent.on(newsroom.Digest, newsroom.Approve, newsroom.Revise, newsroom.Kill, DeadlinePassed)
    async def write(message, conversation):
        return None

    with pytest.raises(MissingHandler, match=r"newsroom\.writer has no handler for LoopEnded.*Spiked.*@agent\.on"):
        agent.check()


def test_agent_with_all_handlers_is_launched() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    @agent.on(newsroom.Digest, newsroom.Approve, newsroom.Revise, newsroom.Kill, DeadlinePassed, LoopEnded)
    async def write(message, conversation):
        return None

    agent.check()


def test_handler_of_a_message_that_no_role_of_the_agent_receives_is_refused() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    with pytest.raises(LocalProtocolError, match="'Finding'"):
        agent.on(newsroom.Finding)(lambda message, conversation: None)


def test_second_handler_of_one_message_is_refused() -> None:
    agent = Agent(plays=newsroom.role("writer"))
    agent.on(newsroom.Digest, Ended)(lambda message, conversation: None)

    with pytest.raises(LocalProtocolError, match="Digest has a handler already"):
        agent.on(newsroom.Digest)(lambda message, conversation: None)
    with pytest.raises(LocalProtocolError, match="Ended has a handler already"):
        agent.on(Ended)(lambda message, conversation: None)


def test_handler_of_other_arguments_is_refused() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    with pytest.raises(LocalProtocolError, match="two arguments"):
        agent.on(newsroom.Digest)(lambda message: None)


def test_handler_of_nothing_is_refused() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    with pytest.raises(LocalProtocolError, match="nothing to handle"):
        agent.on()


def test_limit_must_be_positive() -> None:
    agent = Agent(plays=newsroom.role("writer"))

    with pytest.raises(LocalProtocolError, match="more than 0 s"):
        agent.on(newsroom.Digest, limit=0)(lambda message, conversation: None)


def test_settings_of_the_environment_must_be_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_AGENT_SETTINGS", "[1]")

    with pytest.raises(LocalProtocolError, match="expected a JSON object"):
        Agent(plays=newsroom.role("writer"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALAVER_AGENT_SETTINGS", '{"corpus": "docs"}')

    assert Agent(plays=newsroom.role("writer")).settings == {"corpus": "docs"}
