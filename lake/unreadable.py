"""Objects that cannot be read: each is named and set aside, so that one of them never ends what goes over many.

A function that reads many objects takes `unreadable`, a list that it adds to. Without the list the first such object is an error:
whoever can go on without one says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from lake.errors import Corrupt, NotFound

T = TypeVar("T")
PARALLEL = 16


@dataclass(frozen=True)
class Unreadable:
    """An object that was set aside. key: of the object; why: what is wrong with it."""

    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.key} cannot be read: {self.why}"


def set_aside(key: str, error: Corrupt, unreadable: list[Unreadable] | None) -> None:
    """Add an object to those that cannot be read.

    Args:
        key: the object's key.
        error: why it cannot be read.
        unreadable: the list to add to; None raises the error.
    """
    if unreadable is None:
        raise error
    found = Unreadable(key, error.why or str(error))
    if found not in unreadable:
        unreadable.append(found)


def read_each(
    keys: Iterable[str], read: Callable[[str], T], unreadable: list[Unreadable] | None = None
) -> list[T]:
    """Read several objects at once, in order.

    Args:
        keys: keys of the objects; one that is gone by now is left out.
        read: reads one object; it raises NotFound or Corrupt.
        unreadable: takes what cannot be read; None raises Corrupt for the first one.

    Returns:
        What `read` gave for the objects that can be read.
    """

    def one(key: str) -> T | Corrupt | None:
        try:
            return read(key)
        except NotFound:
            return None
        except Corrupt as error:
            return error

    keys = list(keys)
    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(one, keys))
    found: list[T] = []
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, Corrupt):
            set_aside(key, answer, unreadable)
        elif answer is not None:
            found.append(answer)
    return found
