"""Where a release comes from: its ancestors, nearest first."""

from collections.abc import Callable, Sequence


def ancestors(parents: Callable[[str], Sequence[str]], digest: str) -> list[str]:
    """Return every ancestor's digest once, breadth first; a circle ends where it closes.

    >>> tree = {"c": ["a", "b"], "b": ["a"], "a": ["c"]}
    >>> ancestors(lambda digest: tree.get(digest, []), "c")
    ['a', 'b']
    """
    seen = {digest}
    order: list[str] = []
    ahead = list(parents(digest))
    while ahead:
        following: list[str] = []
        for parent in ahead:
            if parent not in seen:
                seen.add(parent)
                order.append(parent)
                following.extend(parents(parent))
        ahead = following
    return order
