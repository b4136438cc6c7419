"""Croissant: the description of a dataset that search engines and loaders read, beside a Parquet file of its rows.

Source: the Croissant format specification, version 1.0 (docs.mlcommons.org/croissant); checked with `mlcroissant`.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lake import versions
from lake.export import Exported, plain_schema, whole, write_json
from lake.reading import Opened
from lake.refs import NUMBERED, Ref
from lake.versions import read_available

NAME = "croissant.json"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int64": "sc:Integer",
    "int32": "sc:Integer",
    "double": "sc:Float",
}
SAID = {
    "path": "Path of the file in the version",
    "content_id": "BLAKE3 of the bytes of the file, in hex",
    "size": "Size of the file in bytes",
    "drive": "Recording that the frame is of",
    "channel": "Sensor stream, for example CAM_FRONT",
    "timestamp_ns": "Time of the frame in ns since the Unix epoch",
    "sample_id": "Frames of all channels that belong to one time have one id",
    "width": "Pixels across",
    "height": "Pixels down",
    "recipe": "Id of how the frame was made",
}


def export_croissant(
    opened: Opened, ref: Ref, folder: Path, license_url: str = "", text: str = ""
) -> Exported:
    """`croissant.json` beside `files.parquet`, which holds the columns that any file has a value in."""
    schema = _used(opened)
    with (
        whole(folder / "files.parquet") as path,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        for part in versions.rows(opened.store, opened.version):
            writer.write_table(part.select(schema.names))
    write_json(folder / NAME, _description(opened, ref, folder / "files.parquet", schema, license_url, text))
    available = read_available(opened.store, opened.version)
    return Exported("croissant", str(folder), available.files, available.bytes, (NAME, "files.parquet"))


def _used(opened: Opened) -> Any:
    """Columns that are not null everywhere."""
    used: set[str] = set()
    schema: Any = None
    for part in versions.rows(opened.store, opened.version):
        schema = plain_schema(part.schema)
        used |= {name for name in schema.names if part[name].null_count < part.num_rows}
    return pa.schema([field for field in schema if field.name in used])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _description(
    opened: Opened, ref: Ref, table: Path, schema: Any, license_url: str, text: str
) -> dict[str, Any]:
    numbered = NUMBERED.fullmatch(ref.tag)
    available = read_available(opened.store, opened.version)
    described = f"{available.files:,} files, {available.bytes:,} bytes; Outlap version {ref.version}."
    value: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": ref.dataset,
        "description": f"{text} {described}".strip(),
        "url": f"outlap://{ref.dataset}@{ref.version}",
        "identifier": ref.version,
        "version": f"{numbered[1] if numbered else 0}.0.0",
        "datePublished": datetime.fromtimestamp(ref.at_ns // 10**9, UTC).strftime("%Y-%m-%d"),
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "files.parquet",
                "name": "files.parquet",
                "description": "A row for each file of the version",
                "contentUrl": "files.parquet",
                "contentSize": f"{table.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": _sha256(table),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "files",
                "name": "files",
                "description": "The files of the version",
                "key": {"@id": "files/path"},
                "field": [_field(field) for field in schema],
            }
        ],
    }
    if license_url:
        value["license"] = license_url
    return value


def _field(field: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"files/{field.name}",
        "name": field.name,
        "description": SAID.get(field.name, f"The tag {field.name}"),
        "dataType": TYPES[str(field.type)],
        "source": {"fileObject": {"@id": "files.parquet"}, "extract": {"column": field.name}},
    }
