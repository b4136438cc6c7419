"""A person at the pages: a tab of a real Chromium, logged in to Airflow, and what went wrong in it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from outlap_airflow.pages.views import PAGES
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, expect

from tests.plugins.pages.site import Site

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
# what must be seen on each page before it is looked at
SEEN = {
    "datasets": "tbody tr:has-text('night-rain')",
    "jobs": "tbody tr:has-text('running')",
    "nodes": "tbody tr:has-text('disk trouble')",
    "sync": ".card:has-text('2 versions behind')",
    "quarantine": "tbody tr:has-text('missing-channel')",
    "trace": "button:has-text('Show its way')",
}
# Airflow frames the pages of plugins so
KNOWN = re.compile("allow-scripts and allow-same-origin")
# for a machine that does much else
expect.set_options(timeout=30_000)


def log_in(browser: Browser, site: Site, user: str) -> Any:
    """What the browser keeps of a login, which is done as a person does it."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.url}/")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", site.passwords[user])
    page.keyboard.press("Enter")
    expect(page.get_by_text("Plugins", exact=True)).to_be_visible(timeout=60_000)
    kept = context.storage_state()
    context.close()
    return kept


class Visit:
    """A tab of somebody who has logged in, and everything that went wrong in it."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.wrong: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("response", self._answered)
        self.page.goto(f"{site.url}/")

    def _answered(self, answer: Any) -> None:
        if answer.status >= 400:
            self.wrong.append(f"{answer.status} {answer.url}")

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and not KNOWN.search(message.text):
            self.wrong.append(f"{message.type}: {message.text}")

    @property
    def inside(self) -> FrameLocator:
        """Our page in Airflow's frame."""
        return self.page.frame_locator("iframe")

    def by_menu(self, name: str) -> None:
        """Open a page as a person does: Plugins ▸ Outlap ▸ it."""
        self.page.get_by_text("Plugins", exact=True).click()
        self.page.get_by_role("menuitem", name="Outlap").hover()
        self.page.get_by_role("menuitem", name=PAGES[name]).click()
        expect(self.inside.locator(SEEN[name]).first).to_be_visible(timeout=30_000)

    def keep(self, name: str) -> None:
        """A picture, where pictures are wanted."""
        folder = os.environ.get("OUTLAP_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))
