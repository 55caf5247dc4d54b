"""Edit as a person would where nobody sits at the inbox: approve what is filed right, correct what is not.

The editor has read every digest that the desk ever filed and knows by its words where a story belongs.
Settings: ``digests`` (JSONL of labelled digests) and ``archive`` (a folder with later corrections).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bus import Agent, load_protocol
from bus.errors import ProgramError

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("editor"))


@agent.on_start
def check_archive() -> None:
    """Refuse to start without anything to judge by."""
    if not filed_digests(agent.settings):
        raise ProgramError(
            f"editor: digests: expected labelled digests to judge by, got none in "
            f"{agent.settings.get('digests')!r}: run `make data` or name another file"
        )


@agent.on(newsroom.Draft)
def judge(draft, conversation):
    """Approve the draft, or send it back with the section that it belongs to."""
    right = section_of(draft.body, filed_digests(agent.settings))
    if draft.section == right:
        return newsroom.Approve(note=f"{right} it is")
    return newsroom.Revise(comments=f"this belongs under {right}, not {draft.section!r}", section=right)


def section_of(text: str, digests: Iterable[tuple[str, str]]) -> str:
    """Return the section whose digests speak most like *text* (naive Bayes over words; ties by name)."""
    words_by_section: dict[str, Counter[str]] = {}
    for digest, section in digests:
        words_by_section.setdefault(section, Counter()).update(set(words(digest)))
    known = set().union(*words_by_section.values())
    heard = [word for word in words(text) if word in known]

    def likelihood(section: str) -> float:
        counts = words_by_section[section]
        return sum(math.log((counts[word] + 1) / (counts.total() + len(known))) for word in heard)

    return max(sorted(words_by_section), key=likelihood)


def words(text: str) -> list[str]:
    """Return the words of *text*; a plural counts as its singular."""
    return [re.sub(r"(?<=[^s])s$", "", word) for word in re.findall(r"[a-z]{3,}", text.lower())]


def filed_digests(settings) -> list[tuple[str, str]]:
    """Return every (digest, section) that the desk has filed."""
    files = [Path(settings["digests"])] if "digests" in settings else []
    files += sorted(Path(settings["archive"]).glob("correction-*.jsonl")) if "archive" in settings else []
    rows = [json.loads(line) for path in files if path.exists() for line in path.read_text("utf-8").splitlines()]
    return [(row["messages"][0]["content"].partition(": ")[2], row["messages"][-1]["content"]) for row in rows]
