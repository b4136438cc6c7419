"""One site for all tests of the pages: two lakes in a real object store, control, nodes, and an Airflow API server of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from lake.config import SecretRef, StoreConfig
from tests.plugins.pages import site as sites
from tests.plugins.pages.browsing import FLAGS, Visit, log_in
from tests.plugins.pages.site import Site


@pytest.fixture(scope="session")
def site(airflow_database: None, seaweed: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Everything up (site.py says what), for the whole run."""
    os.environ.update(PAGES_KEY_ID="tester", PAGES_KEY="tester-secret")
    keys = {"access_key_id": SecretRef(env="PAGES_KEY_ID"), "secret_access_key": SecretRef(env="PAGES_KEY")}
    lakes = []
    for idc in ("idc-a", "idc-b"):
        bucket = f"pages-{secrets.token_hex(6)}"
        seaweed.client().create_bucket(Bucket=bucket)
        name = idc.replace("idc", "lake")
        lakes.append(StoreConfig(name=name, idc=idc, url=f"s3://{bucket}", endpoint=seaweed.endpoint, **keys))
    migrated = Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"
    with sites.running(tmp_path_factory.mktemp("site"), migrated, *lakes) as up:
        yield up


@pytest.fixture(scope="session")
def call(site: Site) -> Iterator[Callable[..., httpx.Response]]:
    """call(method, path, user=None, headers=None): an answer of the site, as one of its users."""
    tokens: dict[str, str] = {}
    with httpx.Client(base_url=site.url, trust_env=False, timeout=60) as client:

        def ask(
            method: str, path: str, user: str | None = None, headers: dict[str, str] | None = None
        ) -> httpx.Response:
            if user is not None and user not in tokens:
                login = {"username": user, "password": site.passwords[user]}
                tokens[user] = client.post("/auth/token", json=login).json()["access_token"]
            mine = {"Authorization": f"Bearer {tokens[user]}"} if user else {}
            return client.request(method, path, headers={**mine, **(headers or {})})

        yield ask


# Not for longer than a file: an event loop runs in this thread as long as the browser does
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path="/usr/bin/chromium", args=list(FLAGS))
        yield found
        found.close()


@pytest.fixture(scope="module")
def logins(browser: Browser, site: Site) -> dict[str, Any]:
    """user → what the browser keeps of a login."""
    return {user: log_in(browser, site, user) for user in ("ann", "ben")}


@pytest.fixture
def visit(
    browser: Browser, site: Site, logins: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[Visit]:
    """A tab of ben, who may run DAGs; in the theme that the test names."""
    scheme = getattr(request, "param", "light")
    window = {"width": 1280, "height": 800}
    context = browser.new_context(storage_state=logins["ben"], color_scheme=scheme, viewport=window)
    found = Visit(context, site)
    yield found
    context.close()
    assert found.wrong == []
