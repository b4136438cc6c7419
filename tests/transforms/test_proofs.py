"""Each rule is proven on each format that it is made for; the table of them stands in docs/rules.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transforms.conftest import Place
from tests.transforms.drives import REAL
from tests.transforms.proofs import Proof, proofs, table
from transforms import rules
from transforms.profiles import write_profile
from transforms.recipe import Output, Rate, Recipe, Tag

SMALL, TAGS = (Output(name="720p", lines=90),), (Tag(name="picture"),)
FEW, EVERY = (
    Recipe(cut=Rate(rate_mhz=1000), outputs=SMALL, tags=()),
    Recipe(cut="all", outputs=SMALL, tags=TAGS),
)
# these are found in pictures
LOOKED_AT = {"undecodable", "black-frames", "frozen-frames"}
PROOFS = {
    f"{proof.rule}-{column.partition(',')[0]}": (proof, column)
    for proof in proofs()
    for column in proof.columns
}
SEVERITY = {r.id: r.severity for r in (*rules.FILE_RULES, *rules.DRIVE_RULES, *rules.PROFILE_RULES)}


@pytest.mark.parametrize(("proof", "column"), PROOFS.values(), ids=PROOFS)
def test_what_is_wrong_is_found(place: Place, proof: Proof, column: str) -> None:
    if proof.what.startswith("real") and not REAL.is_dir():
        pytest.skip("no real recordings lie beside the project (../shared/data)")
    if proof.profile is not None:
        write_profile(place.lake, "car", dict(proof.profile))
    place.upload(proof.files(column), start_ns=proof.start, channels=proof.channels)
    if proof.spoil is not None:
        proof.spoil(place)
    before = set(place.objects())
    report = place.ingest(recipe=EVERY if proof.rule in LOOKED_AT else FEW)
    severities = {finding.rule: finding.severity for finding in report.findings}
    assert severities.get(proof.rule) == SEVERITY[proof.rule], report.findings
    assert (report.outcome == "quarantined") == ("error" in severities.values())
    if report.outcome == "quarantined":
        assert set(place.objects()) - before == {"quarantine/car/d1.json"}


def test_every_rule_has_a_proof_and_the_page_shows_them() -> None:
    assert {proof.rule for proof in proofs()} == set(SEVERITY)
    page = Path(rules.__file__).parents[2] / "docs" / "rules.md"
    said = "run `python -m tests.transforms.proofs > docs/rules.md`"
    assert page.read_text(encoding="utf-8") == table(), said
