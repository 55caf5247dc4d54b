"""``palaver draw``: what does a protocol look like?"""

from __future__ import annotations

from typing import Annotated

import typer

from bus.spec.compile import load_protocol
from bus.spec.draw import draw_sequence


def draw(
    file: Annotated[str, typer.Argument(metavar="PROTOCOL", help="A protocol's name, or the path of its spec.")],
) -> None:
    """Print a protocol as a Mermaid sequence diagram."""
    print(draw_sequence(load_protocol(file).spec), end="")
