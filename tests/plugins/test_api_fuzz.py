"""Schemathesis asks every route for what its description allows, and for what it does not: no 5xx, and no answer of another form."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

CASES = 15


@pytest.fixture(scope="module")
def described(server: str, tokens: dict[str, str]) -> Any:
    """The API as a user sees it."""
    found = schemathesis.openapi.from_url(
        f"{server}/outlap/openapi.json", headers={"Authorization": f"Bearer {tokens['ben']}"}
    )
    found.config.update(base_url=f"{server}/outlap")
    return found


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.name.lower())
def test_no_answer_breaks_what_the_description_says(
    described: Any, tokens: dict[str, str], mode: GenerationMode
) -> None:
    asked = 0
    for result in described.get_all_operations():
        operation = result.ok()

        @settings(
            max_examples=CASES,
            deadline=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            nonlocal asked
            asked += 1
            # a schema cannot say all: which texts are tags and not version ids, that query and source exclude each other
            case.call_and_validate(
                headers={"Authorization": f"Bearer {tokens['ben']}"},
                excluded_checks=[positive_data_acceptance],
            )

        ask()
    assert asked >= 5 * CASES, "most routes have something to vary"
