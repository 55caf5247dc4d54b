"""Search a folder of Markdown, text and PDF documents and send each passage found as one finding.

Settings: ``corpus``, the folder (``docs``); ``findings``, how many passages one search round may bring (4).
A brief's depth is the number of rounds. A missing or empty folder is refused at launch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bus import Agent, load_protocol
from bus.errors import ProgramError

SUFFIXES = (".md", ".txt", ".pdf")
MIN_WORDS, MAX_WORDS = 25, 110
"""Size of a passage: long enough to say something, short enough to be about one thing."""

LEAST_TRUST = 0.35
"""Passages that fit so much worse than the best are about something else."""

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("researcher"))


@dataclass(frozen=True, slots=True)
class Passage:
    """A few sentences of one document; *title* is that of the document and the nearest heading."""

    path: Path
    title: str
    text: str


@agent.on_start
def check_corpus() -> None:
    """Refuse to start without documents."""
    documents(Path(agent.settings.get("corpus", "docs")))


@agent.on(newsroom.Brief)
def research(brief, conversation):
    """Send the best passages, best first, then how many there were."""
    limit = brief.depth * int(agent.settings.get("findings", 4))
    found = search(Path(agent.settings.get("corpus", "docs")), brief.topic, limit)
    for passage, trust in found:
        source = newsroom.Source(url=passage.path.resolve().as_uri(), title=passage.title, trust=trust)
        yield newsroom.Finding(text=passage.text, sources=[source])
    yield newsroom.FindingsDone(count=len(found))


def documents(folder: Path) -> tuple[Path, ...]:
    """Return the documents of *folder* in a fixed order.

    Raises:
        ProgramError: There are none, or there is no such folder.
    """
    if not folder.is_dir():
        raise ProgramError(f"researcher: corpus: expected a folder of documents, got {str(folder)!r}: no such folder")
    found = tuple(sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()))
    if not found:
        raise ProgramError(
            f"researcher: corpus: expected documents ({', '.join(SUFFIXES)}) in {str(folder)!r}, got none: "
            f"put some there or name another folder in the fleet file's settings"
        )
    return found


def search(folder: Path, query: str, limit: int) -> list[tuple[Passage, float]]:
    """Return up to *limit* passages about *query* with a trust in 0..1, best first."""
    import bm25s  # numpy comes with it: too slow for the launch

    passages, index = _index(folder)
    tokens = bm25s.tokenize([query], stopwords="en", show_progress=False)
    ranks, scores = index.retrieve(tokens, k=min(limit, len(passages)), show_progress=False)
    best = max(float(scores[0][0]), 1e-9)  # nothing fits: every score is zero, and below this
    return [
        (passages[int(rank)], round(float(score) / best, 3))
        for rank, score in zip(ranks[0], scores[0], strict=True)
        if score >= LEAST_TRUST * best
    ]


def split_passages(path: Path, text: str) -> Iterator[Passage]:
    """Cut the *text* of a document at headings and blank lines; code and tables are left out."""
    title, heading, words = "", "", []
    for block in re.split(r"\n\s*\n|\n(?=#)", re.sub(r"```.*?(```|\Z)", "\n", text, flags=re.DOTALL)):
        lines = [line for line in block.splitlines() if not line.lstrip().startswith(("|", "<!--", "---"))]
        is_heading = bool(lines) and lines[0].startswith("#")
        if is_heading or len(words) >= MIN_WORDS:
            yield from _passage(path, title, heading, words)
            words = []
        if is_heading:
            name = _plain(lines.pop(0).lstrip("# "))
            title, heading = (title, name) if title else (name, "")
        words += _plain(" ".join(lines)).split()
        while len(words) > MAX_WORDS:
            cut = _sentence_end(words)
            yield from _passage(path, title, heading, words[:cut])
            words = words[cut:]
    yield from _passage(path, title, heading, words)


def _passage(path: Path, title: str, heading: str, words: list[str]) -> Iterator[Passage]:
    if len(words) >= 5:  # fewer say nothing
        name = title or path.stem
        yield Passage(path, f"{name}: {heading}" if heading else name, " ".join(words))


def _sentence_end(words: list[str]) -> int:
    ends = [place + 1 for place, word in enumerate(words[:MAX_WORDS]) if word.endswith((".", "!", "?"))]
    return ends[-1] if ends and ends[-1] >= MIN_WORDS else MAX_WORDS


def _plain(markdown: str) -> str:
    """Return the words of Markdown without its marks."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"[`*>#]+|(?<!\w)_+|_+(?!\w)", "", text)
    return re.sub(r"(?:^|(?<=\s))(?:[-+]|\d+\.)(?: (?=\w)|$)", "", text).strip()


def _text(path: Path) -> str:
    if path.suffix.lower() != ".pdf":
        return path.read_text(encoding="utf-8", errors="replace")
    from pypdf import PdfReader  # only where there is one to read

    return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)


@lru_cache(maxsize=2)
def _index(folder: Path):
    """Read *folder* once for the life of the process and return its passages with their BM25 index."""
    import bm25s  # numpy comes with it: too slow for the launch

    passages = [passage for path in documents(folder) for passage in split_passages(path, _text(path))]
    if not passages:
        raise ProgramError(f"researcher: corpus: expected text in the documents of {str(folder)!r}, got none")
    index = bm25s.BM25()
    texts = [f"{passage.title} {passage.text}" for passage in passages]
    index.index(bm25s.tokenize(texts, stopwords="en", show_progress=False), show_progress=False)
    return passages, index
