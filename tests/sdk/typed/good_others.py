"""An agent for a role of each of the other shipped protocols: nothing here is to be refused."""

from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import echo_bus
import generation_bus
import task_bus
import training_bus

from bus import Client
from bus.sdk.typed import Artifact

echo = echo_bus.EchoAgent(name="shout")
generator = generation_bus.GeneratorAgent()
worker = task_bus.AgentAgent()
trainer = training_bus.TrainerAgent()


@echo.on_say
async def shout(say: echo_bus.Say, conversation: echo_bus.EchoConversation) -> echo_bus.Said:
    conversation.state["n"] = conversation.state.get("n", 0) + 1
    return echo_bus.Said(text=say.text.upper())


@generator.on_generate
def generate(
    order: generation_bus.Generate, conversation: generation_bus.GeneratorSyncConversation
) -> Iterator[generation_bus.Token | generation_bus.Generated]:
    for turn in order.messages:
        yield generation_bus.Token(request_id=order.request_id, text=turn.content)
    conversation.send_generated(
        request_id=order.request_id, text="", n_prompt_tokens=1, n_tokens=len(order.stop), finish_reason="stop"
    )


@worker.on_submit
async def work(
    task: task_bus.Submit, conversation: task_bus.AgentConversation
) -> AsyncIterator[task_bus.Accepted | task_bus.Completed]:
    yield task_bus.Accepted(task_id=task.task_id)
    await conversation.send_working(task_id=task.task_id, percent=50)
    yield task_bus.Completed(task_id=task.task_id, parts=[task_bus.Part(kind="text", text=task.skill)])


@trainer.on_cancel
async def stop(cancel: training_bus.Cancel, conversation: training_bus.TrainerConversation) -> training_bus.Canceled:
    return training_bus.Canceled(task_id=cancel.task_id)


async def train(client: Client, task_id: UUID, dataset: Artifact) -> str:
    opened = client.open(training_bus.PROTOCOL, role="client", request_id=str(task_id))
    async with training_bus.ClientOpenConversation(opened) as run:
        await run.send_train_request(task_id=task_id, base="tiny", method="lora", dataset=dataset, epochs=1.5)
        async for message in run:
            if isinstance(message, training_bus.Quote):
                await run.send(training_bus.Accept(task_id=message.task_id))
            elif isinstance(message, training_bus.Trained):
                return message.artifact.uri
        return run.outcome or run.reason
