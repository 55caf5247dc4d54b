"""Condense what the researcher found into one digest.

By itself the digest is made of the findings' own sentences. Settings: ``sentences``, how many (5). Where a
model behind an OpenAI-compatible endpoint shall write it instead: ``endpoint`` (``http://localhost:8080/v1``),
``model`` and ``timeout`` in seconds (60); the key is read from OPENAI_API_KEY alone. A failing endpoint
fails the handler, and the bus delivers the message again.
"""

import json
import math
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Sequence

from bus import Agent, load_protocol

MAX_FINDING, MAX_SOURCES = 1_200, 40
"""Characters kept of one finding and sources kept in all: what a role keeps with the bus is limited."""

newsroom = load_protocol("newsroom")
agent = Agent(plays=newsroom.role("summarizer"))

_STOP_TEXT = """
a about after all also an and any are as at be because been before but by can could did do does each for
from had has have he her his how i if in into is it its may more most must no not of on once one only or
other our out over she so some such than that the their them then there these they this to under until up
was we were what when where which while who whose will with would you your
"""
STOP_WORDS = frozenset(_STOP_TEXT.split())


@agent.on(newsroom.Finding)
async def keep(finding, conversation):
    """Keep the finding until the last has come."""
    kept = conversation.state.setdefault("findings", [])
    kept.append(finding.text[:MAX_FINDING])
    sources = conversation.state.setdefault("sources", {})
    for source in finding.sources:
        if len(sources) < MAX_SOURCES:
            sources.setdefault(source.url, [source.title, source.trust])


@agent.on(newsroom.FindingsDone)
def condense(done, conversation):
    """Answer with the digest."""
    findings = conversation.state.get("findings", [])
    if not findings:
        summary = "Nothing was found."
    elif "endpoint" in agent.settings:
        summary = ask_model(findings, agent.settings)
    else:
        summary = summarize(findings, int(agent.settings.get("sentences", 5)))
    sources = [
        newsroom.Source(url=url, title=title, trust=trust)
        for url, (title, trust) in conversation.state.get("sources", {}).items()
    ]
    return newsroom.Digest(summary=summary, sources=sources)


def summarize(findings: Sequence[str], n_sentences: int) -> str:
    """Return the *n_sentences* that say most and repeat each other least, in the order in which they came.

    A sentence is worth the frequency of its words over all findings that are not said yet, for its length;
    more where its finding stands early, because findings come best first, and where it opens its finding.
    """
    sentences = [
        (sentence, frozenset(_words(sentence)), 1.0 / (1.0 + rank), 1.0 if place else 1.2)
        for rank, finding in enumerate(findings)
        for place, sentence in enumerate(split_sentences(finding))
    ]
    frequency = Counter(word for _, words, _, _ in sentences for word in words)
    chosen: list[int] = []
    said: set[str] = set()
    while len(chosen) < min(n_sentences, len(sentences)):

        def worth(number: int) -> float:
            _, words, early, opening = sentences[number]
            weight = sum(math.log1p(frequency[word]) for word in words - said)
            return weight / math.sqrt(4 + len(words)) * early * opening

        free = (number for number in range(len(sentences)) if number not in chosen)
        best = max(free, key=lambda number: (worth(number), -number))
        chosen.append(best)
        said.update(sentences[best][1])
    return " ".join(sentences[number][0] for number in sorted(chosen))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of *text*; what has fewer than four words is none."""
    parts = re.split(r"(?<=[.!?])\s+(?=[^\W\d_a-z])", " ".join(text.split()))
    return [part if part[-1] in ".!?" else part.rstrip(",;:") + "." for part in parts if len(part.split()) >= 4]


def ask_model(findings: Sequence[str], settings) -> str:
    """Return the summary that the configured endpoint writes; blocks for up to its ``timeout``."""
    question = "Summarize these findings for a news desk in five plain sentences:\n\n" + "\n\n".join(findings)
    body = {
        "model": settings.get("model", "default"),
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
    }
    headers = {"content-type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["authorization"] = f"Bearer {key}"
    url = settings["endpoint"].rstrip("/") + "/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=float(settings.get("timeout", 60))) as answer:
        return json.load(answer)["choices"][0]["message"]["content"].strip()


def _words(sentence: str) -> list[str]:
    return [word for word in re.findall(r"[a-z][a-z-]+", sentence.lower()) if word not in STOP_WORDS]
