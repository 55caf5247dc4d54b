"""Generated modules: what type checkers say of agents written against them, and that these run."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from work_protocol import on_loop

from bus.errors import LocalProtocolError, NotAllowed, ProgramError
from bus.sdk.typed import RoleAgent
from bus.spec.codegen import generate_module
from bus.spec.compile import check_text, compile_protocol, load_protocol
from bus.testing import MemoryBus

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "specs").glob("*.protocol.yaml"))
OTHERS = sorted((ROOT / "tests" / "spec" / "data").glob("*.protocol.yaml"))
TYPED = Path(__file__).parent / "typed"
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "generated.md").read_text(encoding="utf-8"), re.DOTALL)
PATIENCE = 110.0

# Names that would hide what the module itself needs, in every place where a spec may give one.
HOSTILE = """\
language: 1
protocol: hostile
version: 2.3.4
roles: {a-b: {doc: 'A \\ "role"'}, a_b: {}, class: {}}
types:
  Any: {fields: {literal: string}}
  UUID: {fields: {list: list of string, str: string, int: map of int, after: string}}
messages:
  Literal: {fields: {to: string, self: string, message: optional Any, class: int, words: {enum: ["a, b", 'c"d', "it's", "[x]"]}}}
  Start: {doc: 'Ends in "quotes"', fields: {datetime: datetime, uuid: uuid, at: datetime, span: {type: duration, default: 5m}}}
  Stop: {fields: {model_x: UUID, copy: any, data: bytes, file: optional artifact, names: {type: list of string, default: [x]}}}
  HTTPError: {fields: {code: {enum: [one-quite-long-word, another-quite-long-word, a-third-quite-long-word], default: one-quite-long-word}}}
  HttpError: {}
  Message: {}
outcomes: {}
conversation:
  - a-b -> a_b: Literal
  - a_b -> a-b: Start
  - a-b -> a_b, class: Stop
  - choice: a-b
    branches:
      one: [a-b -> a_b: HTTPError]
      two: [a-b -> class: HTTPError, class -> a_b: HttpError]
  - a-b -> class: Message
"""  # noqa: E501  # as people write them


def generate(folder: Path) -> list[Path]:
    """Write the modules of all specs to *folder*."""
    for path in (*SHIPPED, *OTHERS):
        spec, _ = check_text(path.read_text(encoding="utf-8"), str(path))
        assert spec is not None
        (folder / f"{spec.protocol.replace('-', '_')}_bus.py").write_text(generate_module(spec), encoding="utf-8")
    (folder / "hostile.protocol.yaml").write_text(HOSTILE, encoding="utf-8")
    hostile, _ = check_text(HOSTILE, "hostile")
    assert hostile is not None
    (folder / "hostile_bus.py").write_text(generate_module(hostile), encoding="utf-8")
    return sorted(folder.glob("*_bus.py"))


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """Return the folder of the generated modules, from where they can be imported."""
    folder = tmp_path_factory.mktemp("generated")
    generate(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.syspath_prepend(TYPED)
        patch.setenv("PALAVER_SPECS", str(folder))
        yield folder


def tool(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MYPYPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.slow
def test_mypy_takes_right_agents_and_finds_each_mistake_on_its_line(modules):
    documented = [modules / f"documented_{number}.py" for number in range(len(EXAMPLES))]
    for path, text in zip(documented, EXAMPLES, strict=True):
        path.write_text(text, encoding="utf-8")
    programs = [*sorted(TYPED.glob("*.py")), *documented]
    wanted = {
        (path.name, number, code)
        for path in programs
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for code in re.findall(r"# E: ([a-z-]+)", line)
    }

    done = tool(
        "mypy", "--strict", "--no-incremental", "--hide-error-context", "--no-pretty",
        *map(str, [*programs, *modules.glob("*_bus.py")]), folder=modules,
    )  # fmt: skip
    found = re.findall(r"^(.*?):(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)

    assert {(Path(name).name, int(line), code) for name, line, code in found} == wanted, done.stdout
    assert len(wanted) > 25


@pytest.mark.slow
@pytest.mark.parametrize("length", ["88", "120"])
def test_ruff_finds_nothing_to_change(modules, length):
    options = ["--isolated", "--line-length", length]
    rules = tool(
        "ruff",
        "check",
        *options,
        "--select",
        "F,I,UP,B,RUF,PIE,C4",
        *map(str, modules.glob("*_bus.py")),
        folder=modules,
    )
    form = tool("ruff", "format", *options, "--diff", *map(str, modules.glob("*_bus.py")), folder=modules)

    assert (rules.returncode, rules.stdout) == (0, "All checks passed!\n")
    assert (form.returncode, form.stdout) == (0, "")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_at_run_time_the_classes_are_the_protocol_s_own(modules, path):
    protocol = load_protocol(path)
    module = importlib.import_module(f"{protocol.name}_bus")

    assert module.PROTOCOL is protocol
    assert {name: getattr(module, name) for name in protocol.models if name != "Artifact"} == {
        name: model for name, model in protocol.models.items() if name != "Artifact"
    }


def test_names_of_a_spec_may_be_those_that_the_module_needs(modules):
    hostile = importlib.import_module("hostile_bus")
    agent = hostile.ABAgent()

    assert agent.roles[0].name == "a-b"
    assert hostile.ABAgent_.__doc__ == "An agent that plays a_b."
    assert {"on_start_message", "on_stop"} <= set(dir(hostile.ABAgent))
    assert {"send_HTTPError", "send_stop"} <= set(dir(hostile.ABConversation))
    assert hostile.Message is hostile.PROTOCOL.Message


def test_another_spec_than_the_one_it_was_made_from_is_refused_at_import(modules, tmp_path, monkeypatch):
    text = (ROOT / "specs" / "echo.protocol.yaml").read_text(encoding="utf-8")
    (tmp_path / "echo.protocol.yaml").write_text(text.replace("version: 1.0.0", "version: 1.1.0"), encoding="utf-8")
    monkeypatch.setenv("PALAVER_SPECS", str(tmp_path))
    monkeypatch.delitem(sys.modules, "echo_bus", raising=False)

    with pytest.raises(ProgramError) as caught:
        importlib.import_module("echo_bus")

    assert re.fullmatch(
        r"echo_bus\.py: expected the protocol echo 1\.0\.0 \([0-9a-f]{16}\) that it was generated from, "
        r"got 1\.1\.0 \([0-9a-f]{16}\): run `palaver codegen echo -o echo_bus\.py` again",
        str(caught.value),
    )


@on_loop
async def test_typed_agents_carry_a_story_from_the_desk_to_its_end(modules):
    newsroom = importlib.import_module("good_newsroom")

    async with MemoryBus() as bus:
        for agent in (newsroom.researcher, newsroom.summarizer, newsroom.writer, newsroom.editor):
            await bus.start(agent)
        async with bus.client() as client:
            assert await newsroom.story(client) == "b"


def test_the_agents_of_the_page_about_generated_code_can_be_launched(modules):
    assert len(EXAMPLES) == 2
    for text in EXAMPLES:
        namespace: dict[str, object] = {}
        exec(compile(text, "generated.md", "exec"), namespace)
        [agent] = [value for value in namespace.values() if isinstance(value, RoleAgent)]

        agent.check()


@on_loop
async def test_a_conversation_of_another_role_is_refused(modules):
    module = importlib.import_module("newsroom_bus")

    async with MemoryBus() as bus, bus.client() as client:
        with pytest.raises(LocalProtocolError, match=r"expected a conversation opened as desk .* got client of echo"):
            module.DeskOpenConversation(client.open(load_protocol("echo")))


@on_loop
async def test_an_llm_is_offered_what_may_be_sent_now_and_its_call_is_sent(modules):
    echo = importlib.import_module("echo_bus")
    agent = echo.EchoAgent()
    offered = []

    @agent.on_say
    async def answer(say, conversation):
        offered.extend(tool["function"]["name"] for tool in conversation.tools())
        with pytest.raises(NotAllowed):
            await conversation.send_tool_call("Bye", "{}")
        await conversation.send_tool_call("Said", '{"text": "by a tool"}')

    async with MemoryBus() as bus:
        await bus.start(agent)
        async with bus.client() as client, echo.ClientOpenConversation(client.open(echo.PROTOCOL)) as conversation:
            await conversation.send_say(text="hello")

            assert await conversation.receive() == echo.Said(text="by a tool")
    assert offered == ["Said"]


def test_equal_specs_give_equal_modules():
    assert len({generate_module(compile_protocol(HOSTILE, file=name).spec) for name in ("one", "two")}) == 1
