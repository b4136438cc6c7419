"""Recipes: how frames are made, and the name that this gives them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lake.canonical import blake3_hex, canonical_json
from transforms.errors import TransformError

# Part of every recipe's id: raise it when the same recipe would give other bytes than before.
CODE_VERSION = 2
# What these names mean where no size is given: most pixels of the shorter side
LINES: dict[str, int] = {"4k": 2160, "720p": 720}
LONGEST_SIDE = 16_384
MOST_EVENTS = 100_000
LONGEST_WINDOW_NS = 3_600_000_000_000

Chroma = Literal["420", "422", "444"]
Side = Annotated[int, Field(ge=16, le=LONGEST_SIDE)]


class Output(BaseModel):
    """One JPEG of each frame. quality: 1 to 100 as libjpeg has it; chroma: how finely colour is kept.

    Its size is one of two things. `lines`: the shorter side has at most so many pixels (the default of 4k and 720p: 2160,
    720), in proportion, never enlarged. `width` and `height` of the upright picture, with `aspect`: "fit" keeps it whole
    inside of that, never enlarged; "fill" covers it and cuts off what hangs over on both sides; "exact" stretches it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    chroma: Chroma = "420"
    lines: Side | None = None
    width: Side | None = None
    height: Side | None = None
    aspect: Literal["fit", "fill", "exact"] = "fit"

    @model_validator(mode="after")
    def _one_size(self) -> Output:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height come together")
        if self.lines is not None and self.width is not None:
            raise ValueError("give lines, or width and height")
        if self.lines is None and self.width is None and self.name not in LINES:
            raise ValueError("give its size: lines, or width and height")
        if self.aspect != "fit" and self.width is None:
            raise ValueError("aspect goes with width and height")
        return self

    @property
    def most_lines(self) -> int | None:
        """Most pixels of the shorter side, None where width and height are given."""
        return self.lines if self.lines is not None or self.width is not None else LINES[self.name]


class Rate(BaseModel):
    """Cut at ticks of a clock of `rate_mhz` thousandths of a hertz that starts at the epoch: 2000 is 2 Hz."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rate_mhz: Annotated[int, Field(ge=1, le=1_000_000)]


class Distance(BaseModel):
    """Cut each `every_mm` millimetres that the vehicle travelled, by its positions; the first one counts as travelled."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    every_mm: Annotated[int, Field(ge=100, le=1_000_000_000)]


class Events(BaseModel):
    """Cut at moments of a list: every frame from before_ns before to after_ns after each, or the nearest where both are 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    at_ns: Annotated[tuple[int, ...], Field(min_length=1, max_length=MOST_EVENTS)]
    before_ns: Annotated[int, Field(ge=0, le=LONGEST_WINDOW_NS)] = 0
    after_ns: Annotated[int, Field(ge=0, le=LONGEST_WINDOW_NS)] = 0


class Tag(BaseModel):
    """A tagger (transforms.tags): one of ours by name, `package.module:NAME`, or an entry point; and its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.:-]{0,199}$")]
    options: dict[str, int | str] = Field(default_factory=dict)


class Recipe(BaseModel):
    """cut: every key frame, all frames, a rate, a distance, or events.

    sample_tolerance_ns: how far a frame of a sample may be from the sample's time, and the frame that is nearest to a moment
    (of a distance or an event) from that moment. tags: what further columns of the catalogue are made by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    cut: Literal["keyframes", "all"] | Rate | Distance | Events = "keyframes"
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)] = (
        Output(name="4k", quality=90),
        Output(name="720p", quality=90),
    )
    sample_tolerance_ns: Annotated[int, Field(ge=0, le=10_000_000_000)] = 50_000_000
    tags: tuple[Tag, ...] = (Tag(name="sun"), Tag(name="motion"), Tag(name="h3"), Tag(name="picture"))

    @model_validator(mode="after")
    def _each_once(self) -> Recipe:
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("an output stands twice")
        if len({tag.name for tag in self.tags}) != len(self.tags):
            raise ValueError("a tag stands twice")
        return self


MIN_RATE_HZ, MAX_RATE_HZ = 0.001, 1000.0


def recipe_at(rate_hz: float | None) -> Recipe:
    """The recipe of the command, the form and the API: key frames, or frames at a rate.

    Args:
        rate_hz: Frames per second; None: key frames.

    Returns:
        The same recipe for the same rate, whoever asks.

    Raises:
        TransformError: The rate is outside of MIN_RATE_HZ to MAX_RATE_HZ.
    """
    if rate_hz is None:
        return Recipe()
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise TransformError(
            f"the rate {rate_hz:g}",
            f"frames per second are {MIN_RATE_HZ:g} to {MAX_RATE_HZ:g}",
            "give another one",
        )
    return Recipe(cut=Rate(rate_mhz=round(rate_hz * 1000)))


def recipe_json(recipe: Recipe) -> bytes:
    """Canonical JSON of a recipe with the versions of the code and of its taggers; the order of outputs, events and tags does
    not count. Raises TransformError for a tagger that cannot be loaded.
    """
    value = recipe.model_dump(mode="json")
    for output, dumped in zip(recipe.outputs, value["outputs"], strict=True):
        dumped["lines"] = output.most_lines
    value["outputs"] = sorted(value["outputs"], key=lambda output: str(output["name"]))
    if isinstance(recipe.cut, Events):
        value["cut"]["at_ns"] = sorted(set(recipe.cut.at_ns))
    from transforms.tags import identity  # taggers look at recipes too

    value["tags"] = sorted((identity(tag) for tag in recipe.tags), key=lambda tag: str(tag["name"]))
    return canonical_json({"code": CODE_VERSION, **value})


def recipe_id(recipe: Recipe) -> str:
    """BLAKE3 of recipe_json: 64 hex digits."""
    return blake3_hex(recipe_json(recipe))
