"""A wrong field, a wrong receiver, and a message that the role never sends, in each of the other shipped protocols."""

from uuid import UUID

import echo_bus
import generation_bus
import task_bus
import training_bus

echo = echo_bus.EchoAgent()


async def of_echo(conversation: echo_bus.EchoConversation) -> None:
    await conversation.send(echo_bus.Said(txt="a"))  # E: call-arg
    await conversation.send(echo_bus.Said(text="a"), to="echo")  # E: arg-type
    await conversation.send(echo_bus.Bye())  # E: arg-type


def of_generation(conversation: generation_bus.GeneratorSyncConversation, request_id: UUID) -> None:
    conversation.send_token(request_id=request_id.hex, text="a")  # E: arg-type
    conversation.send_token(request_id=request_id, text="a", to="generator")  # E: arg-type
    conversation.send_cancel(request_id=request_id)  # E: attr-defined
    generation_bus.ChatTurn(role="robot", content="a")  # E: arg-type


async def of_task(conversation: task_bus.AgentConversation, task_id: UUID) -> None:
    await conversation.send_working(task_id=task_id, percents=1)  # E: call-arg
    await conversation.send(task_bus.Canceled(task_id=task_id), to="agent")  # E: arg-type
    await conversation.send(task_bus.Cancel(task_id=task_id))  # E: arg-type


async def of_training(run: training_bus.ClientOpenConversation, task_id: UUID) -> None:
    await run.send_train_request(task_id=task_id, base="b", method="qlora")  # E: call-arg  # E: arg-type
    await run.send(training_bus.Accept(task_id=task_id), to="client")  # E: arg-type
    await run.send(training_bus.Queued(task_id=task_id, position=1))  # E: arg-type


@echo.on_say  # E: type-var
async def answer(say: echo_bus.Say, conversation: echo_bus.EchoConversation) -> echo_bus.Bye:
    return echo_bus.Bye()
