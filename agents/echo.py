"""Say back what was said."""

from bus import Agent, load_protocol

echo = load_protocol("echo")
agent = Agent(plays=echo.role("echo"))


@agent.on(echo.Say)
async def answer(said, conversation):
    return echo.Said(text=said.text)
