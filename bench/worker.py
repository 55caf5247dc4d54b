"""The benchmark's worker: answers questions, counts streams."""

from bus import Agent, load_protocol

exchanges = [load_protocol("exchange"), load_protocol("exchange-durable")]
streams = [load_protocol("stream"), load_protocol("stream-durable")]
agent = Agent(plays=[protocol.role("worker") for protocol in (*exchanges, *streams)], name="worker", credit=4096)
counts = {}

for exchange in exchanges:

    @agent.on(exchange.Ask)
    async def answer(ask, conversation, reply=exchange.Answer):
        return reply(title=ask.title, text=ask.text)

    @agent.on(exchange.Stop)
    async def stop(stop, conversation):
        return None


for stream in streams:

    @agent.on(stream.Part)
    async def count(part, conversation):
        counts[conversation.id] = counts.get(conversation.id, 0) + 1

    @agent.on(stream.Last)
    async def total(last, conversation, reply=stream.Done):
        return reply(count=counts.pop(conversation.id, 0))
