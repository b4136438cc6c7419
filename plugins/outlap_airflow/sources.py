"""What a publish may be made from, as the form, the API and the operator say it: one of these shapes, by `kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from lake.errors import Refused
from outlap_airflow.settings import DEFAULT_QUERY

# a longer list lies in a store: files {"uri": "STORE:KEY"}
MOST_NAMES = 10_000
Uri = Annotated[
    str, Field(min_length=3, max_length=2000, description="STORE:KEY, or s3://BUCKET/KEY of a known store")
]
Version = Annotated[str, Field(min_length=1, max_length=300, description="NAME@TAG; without @TAG the latest")]


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Query(_Source):
    """Frames of the catalogue that a SELECT over the view `frames` gives."""

    kind: Literal["query"] = "query"
    sql: str = Field(default=DEFAULT_QUERY, min_length=1, max_length=100_000)


class _Objects(_Source):
    """in_place: copy nothing, each object is its own location. identity: with in_place, `etag` reads no byte."""

    in_place: bool = False
    identity: Literal["content", "etag"] = "content"

    @model_validator(mode="after")
    def _fits(self) -> Any:
        if self.identity == "etag" and not self.in_place:
            raise ValueError("identity `etag` goes together with in_place")
        return self


class Prefix(_Objects):
    """The objects below a prefix of a store that may be read."""

    kind: Literal["prefix"]
    uri: Uri


class _Listed(_Objects):
    """map: PREFIX=STORE:PREFIX, where names that begin with PREFIX lie; skip_missing: publish what is there."""

    map: tuple[Annotated[str, Field(max_length=4000)], ...] = Field(default=(), max_length=100)
    skip_missing: bool = False


class Files(_Listed):
    """A list of frames or objects: `names`, or `uri` of a text with one name a line."""

    kind: Literal["files"]
    names: tuple[Annotated[str, Field(min_length=1, max_length=4000)], ...] | None = Field(
        None, min_length=1, max_length=MOST_NAMES
    )
    uri: Uri | None = None

    @model_validator(mode="after")
    def _one(self) -> Any:
        if (self.names is None) == (self.uri is None):
            raise ValueError("give exactly one of names and uri")
        return self


class Pickle(_Listed):
    """A pickled list of files, read without running it."""

    kind: Literal["pkl"]
    uri: Uri


class Derive(_Source):
    """Another version with its JPEGs in another size. skip_bad: leave out pictures that do not decode."""

    kind: Literal["derive"]
    of: Version
    resize: str = Field(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")
    quality: int = Field(default=90, ge=1, le=100)
    aspect: Literal["fit", "fill", "exact"] = "fit"
    skip_bad: bool = False


class Split(_Source):
    """One share of another version; a drive (column `by`) is never in two shares."""

    kind: Literal["split"]
    of: Version
    share: str = Field(default="train", min_length=1, max_length=100)
    shares: str = Field(default="train=80,val=20", min_length=3, max_length=2000)
    by: str = Field(default="drive", min_length=1, max_length=100)
    salt: str = Field(default="", max_length=100)


Source = Annotated[Query | Prefix | Files | Pickle | Derive | Split, Field(discriminator="kind")]
_SOURCE: TypeAdapter[Any] = TypeAdapter(Source)


def parse_source(value: Any) -> Any:
    """A Source from the JSON of a form or of a run's configuration. Raises Refused."""
    try:
        return _SOURCE.validate_json(value) if isinstance(value, str) else _SOURCE.validate_python(value)
    except ValidationError as error:
        causes = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'it'}: {item['msg']}"
            for item in error.errors()[:10]
        )
        raise Refused("the source", causes[:2000], "see the sources in docs/airflow.md") from error
