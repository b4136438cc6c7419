"""How large the JPEGs of a picture are. Integers throughout, so that every machine gives the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transforms.recipe import LINES, Output


@dataclass(frozen=True)
class Target:
    """A JPEG to make of an upright picture: scale all of it to scaled_width x scaled_height, keep the middle of that."""

    output: Output
    width: int
    height: int
    scaled_width: int
    scaled_height: int


def _even(side: int, numerator: int, denominator: int) -> int:
    """The even number nearest to side * numerator / denominator, not above side, at least 2."""
    nearest = (2 * side * numerator + 2 * denominator) // (4 * denominator) * 2
    return max(2, min(nearest, side // 2 * 2))


def _whole(output: Output, width: int, height: int, numerator: int, denominator: int) -> Target:
    wide, high = (_even(side, numerator, denominator) for side in (width, height))
    return Target(output, wide, high, wide, high)


def _in_box(output: Output, width: int, height: int) -> Target:
    assert output.width is not None and output.height is not None
    wide, high = output.width, output.height
    if output.aspect == "exact":
        return Target(output, wide, high, wide, high)
    wider = width * high >= height * wide  # than the box
    if output.aspect == "fill":
        if wider:
            scaled = max(wide, (2 * width * high + height) // (2 * height)), high
        else:
            scaled = wide, max(high, (2 * height * wide + width) // (2 * width))
        return Target(output, wide, high, *scaled)
    wide, high = wide // 2 * 2, high // 2 * 2
    numerator, denominator = (wide, width) if width * high >= height * wide else (high, height)
    return _whole(output, width, height, min(numerator, denominator), denominator)


def target_sizes(width: int, height: int, outputs: Sequence[Output]) -> list[Target]:
    """What is made of an upright picture of width x height pixels, in the order of outputs.

    Sizes are even and never above the picture's, but for "fill" and "exact", which are what was asked for. 4k is left out
    where it would be no larger than 720p.
    """
    targets = []
    shorter = min(width, height)
    for output in outputs:
        lines = output.most_lines
        if lines is None:
            targets.append(_in_box(output, width, height))
        elif output.name != "4k" or shorter > LINES["720p"]:
            targets.append(_whole(output, width, height, min(shorter, lines), shorter))
    return targets
