"""Strongly connected components: what can be gone round in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from bus.spec.automaton import closure


def components(nodes: Iterable[int], successors: Callable[[int], list[int]]) -> list[frozenset[int]]:
    """Return the strongly connected components, by two searches (Kosaraju)."""
    order: list[int] = []
    seen: set[int] = set()
    back: dict[int, list[int]] = {}
    for root in sorted(nodes):
        stack: list[tuple[int, Iterator[int]]] = []
        if root not in seen:
            seen.add(root)
            stack.append((root, iter(successors(root))))
        while stack:
            node, ahead = stack[-1]
            target = next(ahead, None)
            if target is None:
                order.append(node)
                stack.pop()
                continue
            back.setdefault(target, []).append(node)
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(successors(target))))
    found: list[frozenset[int]] = []
    taken: set[int] = set()

    def before(node: int) -> list[int]:
        return [other for other in back.get(node, ()) if other not in taken]

    for node in reversed(order):
        if node not in taken:
            component = closure({node}, before)
            taken |= component
            found.append(frozenset(component))
    return found
