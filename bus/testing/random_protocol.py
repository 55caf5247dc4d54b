"""Random protocols for proofs by execution: whole specs as text, over every kind of step that this version runs.

They are written as a person would write them, more or less: who speaks has mostly just heard something. Many
are out of order all the same; ``check`` decides which may run. Equal seeds give equal texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

Step: TypeAlias = dict[str, Any]
Block: TypeAlias = list[Step]

_OUTCOMES = ("kept", "dropped", "enough")
_MOST_DEPTH = 3


def random_protocol(seed: int) -> str:
    """Return the text of a protocol: JSON, which is YAML too. Not every one is in order."""
    return Writer(Random(seed)).protocol()


class Writer:
    """Writes one protocol from the front to the back.

    ``_kinds`` says how often each kind of step is written; ``random_members`` adds to it.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._roles = [chr(ord("a") + index) for index in range(random.choice((2, 2, 3, 3, 3, 4)))]
        self._messages: list[str] = []
        self._n_names = 0
        self._left = random.randint(3, 12)  # messages to be written; blocks close when there are none left
        self._speakers = [random.choice(self._roles)]
        self._loops: list[str] = []
        self._lossy: set[str] = set()
        self._kinds: dict[Callable[[int], Block], int] = {
            self._send: 10,
            self._stream: 2,
            self._choice: 4,
            self._loop: 3,
            self._parallel: 2,
            self._scope: 3,
        }

    def protocol(self) -> str:
        """Return the whole text."""
        conversation = self._block(0, at_least=2)
        if self._random.random() < 0.5 and not _is_closed(conversation):
            conversation.append(self._end())
        spoken = re.findall(r"\b[a-d]\b", json.dumps(conversation))
        messages: dict[str, dict[str, Any]] = {name: self._declaration(name) for name in self._messages}
        return json.dumps(
            {
                "language": 1,
                "protocol": "random",
                "version": "1.0.0",
                "roles": {role: {} for role in self._roles if role in spoken},
                "messages": messages,
                "outcomes": dict.fromkeys(_OUTCOMES, ""),
                "conversation": conversation,
            },
            indent=1,
        )  # fmt: skip

    def _declaration(self, name: str) -> dict[str, Any]:
        if name in self._lossy:
            return {"delivery": "at-most-once"}
        return {"window": self._random.randint(1, 3)} if self._random.random() < 0.1 else {}

    # -- blocks ------------------------------------------------------------------------------------

    def _block(self, depth: int, *, at_least: int = 1) -> Block:
        block: Block = []
        for index in range(self._random.randint(at_least, 4)):
            if index >= at_least and self._left <= 0:
                break
            block += self._step(depth)
            if _is_closed(block):
                break
        return block

    def _step(self, depth: int) -> Block:
        kinds = self._kinds
        if depth >= _MOST_DEPTH or self._left <= 1:
            return self._send(depth) if self._random.random() < 0.85 else self._stream(depth)
        [write] = self._random.choices([*kinds], weights=[*kinds.values()])
        return write(depth)

    def _branch(self, depth: int, first: Block) -> Block:
        """Return *first* with what follows it, perhaps up to an end or out of a loop."""
        block = [*first]
        if self._random.random() < 0.6 and self._left > 0:
            block += self._block(depth + 1)
        if not _is_closed(block) and self._random.random() < 0.35:
            block += self._exit()
        return block

    def _exit(self) -> Block:
        if self._loops and self._random.random() < 0.7:
            name = self._random.choice(self._loops)
            return [{"break": name} if self._random.random() < 0.6 else {"continue": name}]
        return [self._end()]

    def _end(self) -> Step:
        return {"end": self._random.choice(_OUTCOMES)}

    def _aside(self, depth: int) -> Block:
        """Return what happens after a mishap: nothing, the end, or a little talk."""
        drawn = self._random.random()
        if drawn < 0.4:
            return [self._end()]
        if drawn < 0.5:
            return []
        speakers, self._speakers = self._speakers, [*self._roles]
        block = self._send(depth) if self._random.random() < 0.7 else self._block(depth + 1)
        self._speakers = speakers
        if not _is_closed(block) and self._random.random() < 0.4:
            block += self._exit() if self._random.random() < 0.5 else [self._end()]
        return block

    # -- steps -------------------------------------------------------------------------------------

    def _arrow(self, sender: str, *, to_all: float = 0.15) -> str:
        others = [role for role in self._roles if role != sender]
        receivers = others if self._random.random() < to_all else [self._random.choice(others)]
        if len(others) > 2 and self._random.random() < 0.1:
            receivers = self._random.sample(others, 2)
        self._speakers = receivers if self._random.random() < 0.8 else [sender, *receivers]
        return f"{sender} -> {', '.join(receivers)}"

    def _message(self) -> str:
        self._left -= 1
        if self._messages and self._random.random() < 0.12:
            return self._random.choice(self._messages)
        name = f"M{len(self._messages) + 1}"
        self._messages.append(name)
        return name

    def _name(self, what: str) -> str:
        self._n_names += 1
        return f"{what}{self._n_names}"

    def _speaker(self) -> str:
        return self._random.choice(self._speakers if self._random.random() < 0.9 else self._roles)

    def _deadline(self, depth: int, often: float) -> Step:
        step: Step = {}
        if self._random.random() < often:
            step["within"] = f"{self._random.randint(1, 60)}s"
            if self._random.random() < 0.75:
                step["else"] = self._aside(depth)
            if self._random.random() < 0.25:
                step["retry"] = self._random.randint(1, 2)
        return step

    def _send(self, depth: int) -> Block:
        step = {self._arrow(self._speaker()): self._message()}
        after = self._speakers
        step |= self._deadline(depth, 0.15)
        self._speakers = after
        return [step]

    def _stream(self, depth: int) -> Block:
        """A stream, most often ended by the same role's next message to the same receiver."""
        sender = self._speaker()
        arrow, name = self._arrow(sender, to_all=0.05), self._message()
        step: Step = {arrow: name + self._random.choice("*+")}
        if self._random.random() < 0.6:
            step["max"] = self._random.randint(1, 4)
        if self._random.random() < 0.15:
            self._lossy.add(name)
        if self._random.random() < 0.2:
            return [step]
        ending: Step = {arrow: self._message()}
        after = self._speakers
        ending |= self._deadline(depth, 0.1)
        self._speakers = after
        return [step, ending]

    def _choice(self, depth: int) -> Block:
        decider = self._speaker()
        to_all = self._random.choice((0.0, 0.3, 0.9))
        branches: dict[str, Block] = {}
        spoken: set[str] = set()
        for index in range(self._random.choice((2, 2, 2, 3))):
            first = {self._arrow(decider, to_all=to_all): self._message()}
            branches[f"x{index + 1}"] = self._branch(depth, [first])
            spoken.update(self._speakers)
        if self._random.random() < 0.08:
            branches["skip"] = []
        choice: Step = {"choice": decider, "branches": branches, **self._deadline(depth, 0.2)}
        self._speakers = sorted(spoken)
        return [choice]

    def _loop(self, depth: int) -> Block:
        name = self._name("l")
        self._loops.append(name)
        loop: Step = {"loop": name}
        bound = self._random.random()
        speakers = self._speakers
        body = self._body(depth, name)
        self._loops.pop()
        if bound < 0.5:
            loop["max"] = self._random.randint(1, 3)
        elif bound < 0.65:
            loop["within"] = f"{self._random.randint(1, 5)}m"
        elif bound < 0.75:
            loop["endless"] = True
        loop["do"] = body
        if "max" in loop or "within" in loop:
            self._speakers = speakers
            if self._random.random() < 0.8:
                loop["else"] = self._aside(depth)
        return [loop]

    def _body(self, depth: int, loop: str) -> Block:
        """Return a loop's body: steps, or a choice between one more pass and leaving."""
        if self._random.random() < 0.45:
            return self._block(depth + 1)
        decider = self._speaker()
        to_all = self._random.choice((0.2, 0.9))
        more = self._branch(depth, [{self._arrow(decider, to_all=to_all): self._message()}])
        stop: Block = [{self._arrow(decider, to_all=to_all): self._message()}]
        if self._random.random() < 0.3 and self._left > 0:
            stop += self._send(depth)
        stop.append({"break": loop} if self._random.random() < 0.6 else self._end())
        choice: Step = {"choice": decider, "branches": {"more": more, "stop": stop}, **self._deadline(depth, 0.15)}
        return [choice] if self._random.random() < 0.7 else [*self._send(depth), choice]

    def _parallel(self, depth: int) -> Block:
        branches: dict[str, Block] = {}
        speakers, loops = self._speakers, self._loops
        if len(speakers) < 2:
            speakers = [*speakers, self._random.choice(self._roles)]
        self._loops = []  # a parallel is not left from inside
        for index in range(self._random.choice((2, 2, 2, 3))):
            self._speakers = [self._random.choice(speakers)]
            branches[f"p{index + 1}"] = self._block(_MOST_DEPTH if self._random.random() < 0.7 else depth + 2)
        self._loops = loops
        return [{"parallel": branches}]

    def _scope(self, depth: int) -> Block:
        scope: Step = {"scope": self._name("s"), "do": self._block(depth + 1)}
        after, ended = self._speakers, _is_closed(scope["do"])
        interrupts = []
        for kind in self._random.sample(
            ("message", "message", "timeout", "lost", "failed"), self._random.randint(1, 3)
        ):
            if kind == "message":
                trigger: Step = {self._arrow(self._random.choice(self._roles)): self._message()}
            elif kind == "timeout":
                trigger = {"timeout": f"{self._random.randint(1, 60)}m"}
            else:
                trigger = {kind: self._random.choice(self._roles)}
            body = self._aside(depth)
            if ended and not _is_closed(body) and self._random.random() < 0.7:
                body.append(self._end())
            interrupts.append({**trigger, "then": body})
        scope["interrupts"] = interrupts
        self._speakers = after
        return [scope]


def _is_closed(block: Block) -> bool:
    """Return whether the block ends where nothing can follow."""
    return bool(block) and not {"end", "break", "continue"}.isdisjoint(block[-1])
