"""Recipes: how frames are made, and the name that this gives them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lake.canonical import blake3_hex, canonical_json

# Part of every recipe's id: raise it when the same recipe would give other bytes than before.
CODE_VERSION = 1
OutputName = Literal["4k", "720p"]
LINES: dict[str, int] = {"4k": 2160, "720p": 720}


class Output(BaseModel):
    """One JPEG of each frame. quality: 1 to 100 as libjpeg has it.

    Its shorter side has at most 2160 (4k) or 720 (720p) pixels; smaller pictures keep their size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: OutputName
    quality: Annotated[int, Field(ge=1, le=100)] = 90

    @property
    def lines(self) -> int:
        """Most pixels of the shorter side."""
        return LINES[self.name]


class Rate(BaseModel):
    """Cut at ticks of a clock of `rate_mhz` thousandths of a hertz that starts at the epoch: 2000 is 2 Hz."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    rate_mhz: Annotated[int, Field(ge=1, le=1_000_000)]


class Recipe(BaseModel):
    """cut: every key frame, or a rate. sample_tolerance_ns: frames of one sample are at most this far apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cut: Literal["keyframes"] | Rate = "keyframes"
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)] = (
        Output(name="4k", quality=90),
        Output(name="720p", quality=90),
    )
    sample_tolerance_ns: Annotated[int, Field(ge=0, le=10_000_000_000)] = 50_000_000

    @model_validator(mode="after")
    def _each_once(self) -> Recipe:
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("an output stands twice")
        return self


def recipe_json(recipe: Recipe) -> bytes:
    """Canonical JSON of a recipe with the code's version; the order of outputs does not count."""
    value = recipe.model_dump(mode="json")
    value["outputs"] = sorted(value["outputs"], key=lambda output: str(output["name"]))
    return canonical_json({"code": CODE_VERSION, **value})


def recipe_id(recipe: Recipe) -> str:
    """BLAKE3 of recipe_json: 64 hex digits."""
    return blake3_hex(recipe_json(recipe))
