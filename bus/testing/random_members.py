"""Random protocols in which roles have many members, and in which other protocols are called.

``each``, ``enroll`` and ``call`` join the steps of ``random_protocol``. Equal seeds give equal texts.
"""

from __future__ import annotations

import json
import re
from random import Random

from bus.spec.bundle import SpecText, join_bundle
from bus.testing.random_protocol import Block, Step, Writer

_CALLEE = {
    "language": 1,
    "protocol": "quiz",
    "version": "1.0.0",
    "roles": {"asker": {}, "knower": {}},
    "messages": {"Question": {}, "Answer": {}, "Shrug": {}},
    "outcomes": {"known": "", "unknown": ""},
    "conversation": [
        {"asker -> knower": "Question"},
        {
            "choice": "knower",
            "branches": {
                "yes": [{"knower -> asker": "Answer"}, {"end": "known"}],
                "no": [{"knower -> asker": "Shrug"}, {"end": "unknown"}],
            },
        },
    ],
}


def random_gathering(seed: int) -> str:
    """Return the text of a protocol with members, calls or both. Not every one is in order."""
    return _GatheringWriter(Random(f"gathering {seed}")).protocol()


class _GatheringWriter(Writer):
    """Writes ``each`` over roles with many members, ``enroll`` into their sub-roles, and ``call``."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self._roles = self._roles[: random.choice((2, 2, 3, 3))]
        self._speakers = [random.choice(self._roles)]
        self._families = {"m": {"many": random.choice(("0..3", "1..3", "1..*", "1..2", "2..3"))}}
        if random.random() < 0.2:
            self._families["n"] = {"many": random.choice(("1..2", "0..2", "1..*"))}
        if random.random() < 0.7:
            self._families["p"] = {"from": "m"} | random.choice(({}, {}, {"many": "0..1"}, {"many": "0..2"}))
        if "p" in self._families and random.random() < 0.4:
            self._families["q"] = {"from": "p"} | random.choice(({}, {"many": "0..1"}))
        self._enrolled: set[str] = set()
        self._is_beside = False
        self._is_called = False
        self._about = ""  # the role of the `each` around what is written
        drawn = random.random()
        self._has_members = drawn < 0.8
        if self._has_members:
            self._kinds = {**self._kinds, self._each: 9}
        else:
            self._families.clear()
        if drawn > 0.5:
            self._kinds[self._call] = 6

    def protocol(self) -> str:
        """Return the whole text, and behind it what is called."""
        text = json.loads(super().protocol())
        spoken = json.dumps(text["conversation"])
        for name, role in self._families.items():
            if any(re.search(rf"\b{one}\b", spoken) for one in self._line_to(name)):
                text["roles"][name] = role
        if not self._is_called:
            return json.dumps(text, indent=1)
        return join_bundle((SpecText("", json.dumps(text, indent=1)), SpecText("", json.dumps(_CALLEE, indent=1))))

    def _line_to(self, name: str) -> list[str]:
        """Return *name* and the sub-roles that are from it, themselves or by others."""
        found = [name]
        for one in found:
            found += [sub for sub, role in self._families.items() if role.get("from") == one]
        return found

    # -- steps -------------------------------------------------------------------------------------

    def _block(self, depth: int, *, at_least: int = 1) -> Block:
        if depth == 0 and self._has_members and not self._about:
            return [*self._each(0), *super()._block(depth, at_least=at_least)]
        return super()._block(depth, at_least=at_least)

    def _arrow(self, sender: str, *, to_all: float = 0.15) -> str:
        others = [role for role in self._roles if role != sender]
        if self._has_members and not self._about and (not others or self._random.random() < 0.12):
            roots = [name for name, role in self._families.items() if "from" not in role]
            told = [self._random.choice(roots)]
            if others and self._random.random() < 0.5:
                told.append(self._random.choice(others))
                self._speakers = [told[1]]
            return f"{sender} -> {', '.join(told)}"
        return super()._arrow(sender, to_all=to_all)

    def _parallel(self, depth: int) -> Block:
        if len(self._roles) < 2:
            return self._send(depth)
        was_beside, self._is_beside = self._is_beside, True
        block = super()._parallel(depth)
        self._is_beside = was_beside
        return block

    def _each(self, depth: int) -> Block:
        if self._about or self._is_beside:
            return self._send(depth)
        role = self._random.choice([name for name, one in self._families.items() if "from" not in one])
        if self._enrolled and self._random.random() < 0.7:
            role = self._random.choice(sorted(self._enrolled))
        roles, speakers, loops, kept = self._roles, self._speakers, self._loops, self._left
        some = self._random.sample(roles, min(len(roles), self._random.choice((1, 1, 2))))
        self._roles, self._about, self._loops = [role, *some], role, []
        self._speakers = [self._random.choice(some if self._random.random() < 0.7 else [role])]
        self._left = min(kept, self._random.randint(1, 4)) or 1
        begun = self._left
        block = self._block(max(depth, 1)) if self._random.random() < 0.8 else self._send(depth)
        if not block or "end" not in block[-1]:
            block += self._enrolling(role, depth)
        step: Step = {"each": role}
        if self._random.random() < 0.35:
            step["until"] = self._random.choice(("any", 1, 2, "all"))
        if self._random.random() < 0.35:
            step["within"] = f"{self._random.randint(1, 60)}s"
        may_be_late = "within" in step or step.get("until", "all") != "all"
        if may_be_late and self._random.random() < 0.6:
            step["late"] = self._aside(2) if self._random.random() < 0.6 else []
        self._left = kept - (begun - self._left)
        self._roles, self._about, self._loops = roles, "", loops
        self._speakers = some if self._random.random() < 0.8 else speakers
        return [{**step, "do": block}]

    def _enrolling(self, role: str, depth: int) -> Block:
        """Return how members come into a sub-role: some by a choice, or all."""
        subs = [name for name, one in self._families.items() if one.get("from") == role]
        if not subs or self._random.random() < 0.2:
            return []
        sub = self._random.choice(subs)
        self._enrolled.add(sub)
        if self._random.random() < 0.15:
            return [{"enroll": sub}]
        decider = self._speaker()
        chosen: Block = [{self._arrow(decider, to_all=0.3): self._message()}, {"enroll": sub}]
        if self._random.random() < 0.3:
            chosen += self._send(depth)
        other: Block = [{self._arrow(decider, to_all=0.3): self._message()}]
        if self._random.random() < 0.1:
            other.append(self._end())
        return [{"choice": decider, "branches": {"in": chosen, "out": other}, **self._deadline(2, 0.15)}]

    def _call(self, depth: int) -> Block:
        if self._about or len(self._roles) < 2:
            return self._send(depth)
        self._is_called = True
        self._left -= 1
        asker, knower = self._random.sample(self._roles, 2)
        outcomes: dict[str, Block] = {}
        for name in ("known", "unknown", "failed", "canceled"):
            self._speakers = [*self._roles]
            outcomes[name] = self._aside(depth)
        step: Step = {"call": "quiz@^1", "as": {"asker": asker, "knower": knower}, "outcomes": outcomes}
        if self._random.random() < 0.5:
            step["within"] = f"{self._random.randint(1, 60)}m"
        self._speakers = [*self._roles]
        return [step]
