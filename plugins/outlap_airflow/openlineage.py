"""What a task read and wrote, for OpenLineage, where apache-airflow-providers-openlineage is installed; nothing where it is not.

A version is the dataset `<dataset>` of the namespace `outlap://<idc>` with its id in the version facet; a drive is
`drives/<vehicle>/<drive>` there, the catalogue is `frames`. So a collector joins drive → frames → version → version elsewhere →
warm of a training by names alone; which drives are in which version, `outlap lineage` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from outlap_airflow.links import shown

CATALOGUE = "frames"


def namespace(idc: str) -> str:
    return f"outlap://{idc or 'here'}"


def version_of(facts: Mapping[str, Any], idc: str | None = None) -> dict[str, Any]:
    """A version as plain values: namespace, name, version, and files and bytes where they are known."""
    found = {
        "namespace": namespace(idc if idc is not None else str(facts.get("idc", ""))),
        "name": facts["dataset"],
        "version": facts["version"],
    }
    return {**found, **{name: facts[name] for name in ("files", "bytes") if name in facts}}


def lineage_of(facts: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """{inputs, outputs} of a task from what it showed (outlap_airflow.links.show). Empty when it named no version.

    parents: what it was made of, each {dataset, version}; source_idc: where a sync read it; drive, vehicle: what was ingested.
    """
    if "drive" in facts:
        name = f"drives/{facts.get('vehicle', '')}/{facts['drive']}"
        here = namespace(str(facts.get("idc", "")))
        return {
            "inputs": [{"namespace": here, "name": f"landing/{name}"}],
            "outputs": [{"namespace": here, "name": name}, {"namespace": here, "name": CATALOGUE}],
        }
    if "version" not in facts:
        return {"inputs": [], "outputs": []}
    if "source_idc" in facts:
        return {"inputs": [version_of(facts, facts["source_idc"])], "outputs": [version_of(facts)]}
    if "job" in facts:
        return {"inputs": [version_of(facts)], "outputs": []}
    made_of = [version_of({**facts, **parent}) for parent in facts.get("parents", ())]
    return {
        "inputs": made_of or [{"namespace": namespace(str(facts.get("idc", ""))), "name": CATALOGUE}],
        "outputs": [version_of(facts)],
    }


def facets_of(operator: Any) -> Any:
    """An OperatorLineage, or None where the provider is not installed."""
    if find_spec("airflow.providers.openlineage") is None:
        return None
    from airflow.providers.openlineage.extractors import OperatorLineage

    found = lineage_of(shown(operator))
    return OperatorLineage(
        inputs=_datasets(found["inputs"], False), outputs=_datasets(found["outputs"], True)
    )


def _datasets(found: Iterable[Mapping[str, Any]], is_output: bool) -> list[Any]:
    from openlineage.client.event_v2 import InputDataset, OutputDataset
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
    from openlineage.client.generated.output_statistics_output_dataset import (
        OutputStatisticsOutputDatasetFacet,
    )

    made: list[Any] = []
    for one in found:
        facets: dict[str, Any] = {}
        if "version" in one:
            facets["version"] = DatasetVersionDatasetFacet(one["version"])
        if not is_output:
            made.append(InputDataset(one["namespace"], one["name"], facets=facets))
            continue
        counts: dict[str, Any] = {}
        if "files" in one:
            counts["outputStatistics"] = OutputStatisticsOutputDatasetFacet(
                rowCount=one["files"], size=one.get("bytes")
            )
        made.append(OutputDataset(one["namespace"], one["name"], facets=facets, outputFacets=counts))
    return made
