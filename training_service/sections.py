"""The newsroom's archive: short digests and the section each was filed under, made from a seeded grammar.

Each digest speaks mostly of its own section, is lured towards another by a word or two, and is padded with
invented names and everyday words, so that neither a single word nor the length gives the section away.
Rows are chats as the training service reads them. Nothing here knows of models, the bus or the demo.

``python -m training_service.sections [FOLDER [SEED]]`` writes the two files, by default those that ship.
"""

import argparse
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TOPICS = {
    "protocols": "protocol role choice branch loop grammar automaton spec schema order",
    "delivery": "lease delivery attempt mailbox outbox fence credit letter acknowledgement turn",
    "storage": "journal disk fsync transaction crash database retention record commit sync",
    "training": "adapter gradient optimizer checkpoint weights tokenizer dataset loss learning model",
    "people": "editor inbox person answer approval reminder reader desk human question",
    "operations": "fleet supervisor process socket terminal address machine port launch command",
}

SECTIONS: Mapping[str, tuple[str, ...]] = {name: tuple(words.split()) for name, words in _TOPICS.items()}
"""Section → its topic words; no word belongs to two sections."""

TRAINING_ROWS = 400
HELD_OUT_ROWS = 150
SEED = 0
"""Of the two files that the repository ships."""

PROMPT = "File this digest: "
"""What precedes a digest where a section is asked for; agents/writer.py asks in the same words."""

_SYLLABLES = (
    "ba",
    "cor",
    "den",
    "fi",
    "gal",
    "hu",
    "jo",
    "ka",
    "lin",
    "mor",
    "na",
    "pel",
    "ros",
    "su",
    "tav",
)
_NEUTRAL = {
    "a": "big clear early first good hard large late long new old quick same short small strange whole young",
    "d": "again almost always before even here never now often once only still today twice yesterday",
    "v": "asked brought carried changed found gave held kept left made met moved saw showed took used wanted",
}
_FILLERS = {slot: tuple(words.split()) for slot, words in _NEUTRAL.items()}
"""Adjectives, adverbs and verbs that say nothing of the section."""

_PATTERNS = (
    "The {a} {t} of the {t} {v} the {t} {d}.",
    "{n} {d} {v} that {t} and the {a} {t} of {n}.",
    "One {a} {t} {d} {v} the {t} of {n}.",
    "{d} the {t} and {n} {v} some {a} {t}.",
    "Every {t} {v} one {t}, {d} {a}.",
)
_SLOT = re.compile(r"\{(\w)\}")
_LURES = 2
"""Topic words of other sections in each digest; at least twice as many are of its own."""


@dataclass(frozen=True, slots=True)
class Digest:
    """One labelled digest."""

    text: str
    section: str

    def as_row(self) -> str:
        """Return the digest as one JSON line: a chat whose answer is the section."""
        turns = [
            {"role": "user", "content": PROMPT + self.text},
            {"role": "assistant", "content": self.section},
        ]
        return json.dumps({"messages": turns}, ensure_ascii=False)


def new_archive(
    seed: int, *, n_training: int = TRAINING_ROWS, n_held_out: int = HELD_OUT_ROWS
) -> tuple[tuple[Digest, ...], tuple[Digest, ...]]:
    """Return labelled digests to learn from and others to be judged by; the same for the same *seed*.

    No text occurs twice, in either part; sections differ by one row at most in each part.
    """
    source = random.Random(f"sections {seed}")  # text seeds do not depend on the interpreter's hash seed
    seen: set[str] = set()
    return (_part(source, n_training, seen), _part(source, n_held_out, seen))


def archive_text(digests: Sequence[Digest]) -> str:
    """Return *digests* as JSONL, one chat a line."""
    return "".join(digest.as_row() + "\n" for digest in digests)


def write_archive(folder: Path, seed: int) -> tuple[Path, Path]:
    """Write ``sections.train.jsonl`` and ``sections.held-out.jsonl`` into *folder* and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    training, held_out = new_archive(seed)
    paths = (folder / "sections.train.jsonl", folder / "sections.held-out.jsonl")
    for path, digests in zip(paths, (training, held_out), strict=True):
        path.write_text(archive_text(digests), encoding="utf-8")
    return paths


def _part(source: random.Random, n_rows: int, seen: set[str]) -> tuple[Digest, ...]:
    names = list(SECTIONS)
    source.shuffle(names)  # which sections get the odd row
    digests: list[Digest] = []
    while len(digests) < n_rows:
        section = names[len(digests) % len(names)]
        text = _text(source, section)
        if text not in seen:
            seen.add(text)
            digests.append(Digest(text, section))
    source.shuffle(digests)
    return tuple(digests)


def _text(source: random.Random, section: str) -> str:
    """Return three sentences whose topic words are mostly, but not only, those of *section*."""
    others = [word for name, words in SECTIONS.items() if name != section for word in words]
    patterns = source.sample(_PATTERNS, k=3)
    n_topical = sum(pattern.count("{t}") for pattern in patterns)
    topical = source.sample(SECTIONS[section], k=n_topical - _LURES) + source.sample(others, k=_LURES)
    source.shuffle(topical)
    topics = iter(topical)

    def fill(slot: re.Match[str]) -> str:
        kind = slot[1]
        if kind == "n":
            return _name(source)
        return next(topics) if kind == "t" else source.choice(_FILLERS[kind])

    sentences = [_SLOT.sub(fill, pattern) for pattern in patterns]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _name(source: random.Random) -> str:
    return "".join(source.choices(_SYLLABLES, k=source.randint(2, 3))).capitalize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the labelled digests of a seed.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("specs/data"))
    parser.add_argument("seed", nargs="?", type=int, default=SEED)
    arguments = parser.parse_args()
    for written in write_archive(arguments.folder, arguments.seed):
        print(written)
