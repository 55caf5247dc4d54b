"""The digest of a spec: equal for two files that mean the same, on every machine.

Docs, examples, deprecation, status, layout and file names do not count. The order of declarations
does: roles and message types travel on the wire as their numbers. What is imported counts as if it stood in
the file; what is called counts by its own digest.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from hashlib import blake2b

from bus.spec.syntax import Spec

DIGEST_BYTES = 8
NOT_MEANT = frozenset(
    {"mark", "doc", "example", "has_example", "examples", "deprecated", "source", "status", "imports"}
)


def digest(spec: Spec, callees: Mapping[str, str] | None = None) -> str:
    """Return 16 hex digits over the canonical form of *spec*, its imports brought in.

    Args:
        callees: What it calls, as written → the digest of the protocol that this means.
    """
    form = [canonical(spec), dict(callees)] if callees else canonical(spec)
    text = json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def canonical(value: object, *, left_out: frozenset[str] = NOT_MEANT) -> object:
    """Return *value*, a spec or a part of one, as plain values without what does not count."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept: dict[str, object] = {"": type(value).__name__}
        for one in dataclasses.fields(value):
            inner = getattr(value, one.name)
            if one.name in left_out or inner == one.default:
                continue  # what is left at its default may be added to the language later
            kept[one.name] = canonical(inner, left_out=left_out)
        return kept
    if isinstance(value, tuple | list):
        return [canonical(item, left_out=left_out) for item in value]
    return value
