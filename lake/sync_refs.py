"""The tags that a sync carries to another IDC: forward only.

A numbered tag names one version for ever: where the target's names another one, the sync is refused. Any other tag moves at the target
only from a state that the source has had before: one that an earlier sync brought from there (`Ref.follows`), or a version that the
source's tag named once. So what was published, or rolled back by a person, at the target stays until the source has seen it and moved
on. No clock of one IDC is compared with that of another.
"""

from __future__ import annotations

from dataclasses import replace

from lake import refs
from lake.errors import Conflict, NotFound
from lake.refs import Ref
from lake.stores import Store


def _at_source(source: Store, found: Ref) -> list[Ref]:
    """Every tag of the version at the source, `latest` last."""
    same = [ref for ref in refs.list_refs(source, found.dataset, []) if ref.version == found.version]
    return sorted(same, key=lambda ref: ref.tag == refs.LATEST)


def check_numbers(source: Store, target: Store, found: Ref) -> None:
    """Refuse, before anything is copied, what numbers of the target forbid.

    Args:
        source: the store that has the version.
        target: the store that shall have it.
        found: a ref of the version.

    Raises:
        Conflict: a numbered tag of the version names another one at the target.
    """
    for ref in _at_source(source, found):
        if refs.NUMBERED.fullmatch(ref.tag):
            _check_number(target, ref, refs.read_ref(target, ref.dataset, ref.tag))


def _check_number(target: Store, ref: Ref, known: Ref | None) -> None:
    if known is not None and known.version != ref.version:
        raise Conflict(
            f"the ref {ref.dataset}@{ref.tag} in store {target.name}",
            f"it names {known.version[:12]}, the source's names {ref.version[:12]}: both IDCs published a {ref.tag}",
            f"publish a dataset in one IDC only; to copy this one, publish it under another name (`outlap split` or `derive --as`), "
            f"or delete {ref.dataset}@{ref.tag} on one side",
        )


def carry_refs(source: Store, target: Store, found: Ref) -> tuple[str, ...]:
    """Give the version at the target the tags that it has at the source.

    Args:
        source: the store that has the version.
        target: the store that has it now, too.
        found: a ref of the version.

    Returns:
        One line for each tag that was left where it is.

    Raises:
        Conflict: a numbered tag of the version names another one at the target.
    """
    kept = []
    for ref in _at_source(source, found):
        mirrored = replace(ref, follows=(source.idc, ref.moved_ns))
        if refs.NUMBERED.fullmatch(ref.tag):
            if not refs.write_ref(target, mirrored):
                _check_number(target, ref, refs.read_ref(target, ref.dataset, ref.tag))
            continue

        def may_leave(known: Ref, ref: Ref = ref) -> bool:
            return known.version != ref.version and _is_forward(source, target, known, ref)

        stays = refs.move_ref(target, mirrored, may_leave)
        if stays is not None and stays.version != ref.version:
            kept.append(
                f"{ref.tag} names {stays.version[:12]} in {target.idc}, which was published or chosen there (or is newer): it stays, "
                f"and {ref.version[:12]} of {source.idc} does not replace it; `outlap rollback {ref.dataset}@{ref.tag} "
                f"--to {ref.version[:12]} --idc {target.idc}` does"
            )
    return tuple(kept)


def _is_forward(source: Store, target: Store, known: Ref, ref: Ref) -> bool:
    """Whether the target's tag, as it is, is a state that the source has left for what `ref` says."""
    try:
        now = refs.read_ref(source, ref.dataset, ref.tag)
    except NotFound:
        return False
    if now is None or now.moved_ns != ref.moved_ns:
        return False  # the source's moved on while we copied: the sync of that brings it
    if known.follows is not None and known.follows[0] == source.idc:
        return known.follows[1] < ref.moved_ns
    mine = (source.idc, ref.moved_ns)
    if refs.has_named(target, known, lambda one: one.follows == mine):
        return False  # the target has had this very state, and somebody chose another there
    return refs.has_named(source, ref, lambda one: one.version == known.version)
