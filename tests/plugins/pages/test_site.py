"""The running site: who may read and press what, every route asked as nobody, viewer, user and admin; what the pages read of control
services, called directly; and each page in a real Chromium, opened through Airflow's own menu.

In one file, so that one process of the tests starts one site. OUTLAP_SCREENSHOTS=DIR keeps a picture of each page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from outlap_airflow.links import page_url
from outlap_airflow.pages import control, jobs, nodes
from outlap_airflow.pages.listing import Asking
from outlap_airflow.pages.sources import Memory, Sources
from outlap_airflow.pages.views import PAGES, PREFIX, views
from playwright.sync_api import Browser, expect

from cacheengine.client import Control
from cacheengine.errors import CacheError
from cacheengine.wire import WarmRequest
from lake.config import load_config
from lake.errors import NotFound
from tests.plugins.pages import servers, world
from tests.plugins.pages.browsing import Visit
from tests.plugins.pages.site import Site

VIEWER, USER, ADMIN = "ann", "ben", "kim"
OURS = {"X-Outlap": "pages"}
ALL = Asking()
READABLE = Path(__file__).with_name("readable.js").read_text()
Call = Callable[..., httpx.Response]
Routes = list[tuple[str, str]]


@pytest.fixture(scope="module")
def routes(airflow_database: None) -> list[tuple[str, str]]:
    """(method, path) of every route of the app, with its parameters filled in."""
    from outlap_airflow.pages import routes as data
    from outlap_airflow.pages.app import create_app

    known = {
        **{"dataset": "frames-720p", "version": "v3", "idc": "idc-b", "job": "nosuch", "node": "b1"},
        **{
            "vehicle": "car-02",
            "drive": "2026-11-07-morning",
            "order": "cancel",
            "name": "outlap.css",
            "page": "jobs",
        },
    }
    found = {
        (method, route.path) for route in create_app().routes for method in getattr(route, "methods", ())
    }
    assert len(found) > len(data.router.routes)
    filled = [(method, PREFIX + path.format(**known)) for method, path in sorted(found) if method != "HEAD"]
    assert len(filled) == 19
    return filled


def test_nobody_gets_nothing(call: Call, routes: Routes) -> None:
    for method, path in routes:
        assert call(method, path, headers=OURS).status_code == 401, path
        forged = call(method, path, headers={**OURS, "Authorization": "Bearer forged"})
        assert forged.status_code == 403, path


def test_a_viewer_reads_every_page(call: Call, routes: Routes) -> None:
    for method, path in routes:
        if method != "GET":
            continue
        answer = call(method, path, VIEWER)
        assert answer.status_code == (404 if path.endswith("/jobs/idc-b/nosuch") else 200), answer.text
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == ("no-store" if "/data/" in path else "no-cache")


def test_only_who_may_start_runs_presses_buttons(call: Call, routes: Routes) -> None:
    buttons = [path for method, path in routes if method == "POST"]
    assert len(buttons) == 3
    # the drive is still wanted by the tests after this one
    buttons = [
        path if not path.endswith("/dismiss") else path.rsplit("/", 2)[0] + "/nosuch/dismiss"
        for path in buttons
    ]
    for path in buttons:
        assert call("POST", path, VIEWER, headers=OURS).status_code == 403
        # a form of another site sends the cookie, and no header of its own
        assert call("POST", path, ADMIN).status_code == 403
        for user in (USER, ADMIN):
            allowed = call("POST", path, user, headers=OURS)
            is_there = "/jobs/" not in path and "/nosuch/" not in path
            assert allowed.status_code == (202 if is_there else 404), allowed.text


def test_buttons_are_offered_to_who_may_press_them(call: Call, site: Site) -> None:
    job = f"{PREFIX}/data/jobs/idc-b/{site.jobs['running'].id}"
    for user, may in ((VIEWER, False), (USER, True), (ADMIN, True)):
        assert call("GET", f"{PREFIX}/data/quarantine", user).json()["may_drive_again"] is may
        assert call("GET", job, user).json()["may_order"] is may


def test_a_drive_is_tried_again_by_one_run_only(call: Call) -> None:
    path = f"{PREFIX}/data/quarantine/car-01/2026-11-06-rain"
    first = call("POST", f"{path}/again", USER, headers=OURS).json()
    again = call("POST", f"{path}/again", ADMIN, headers=OURS).json()
    assert first["run"] == again["run"]
    run = call("GET", f"/api/v2/dags/ingest_drives/dagRuns/{first['run']}", USER).json()
    assert (
        run["conf"] | {"vehicle": "car-01", "drive": "2026-11-06-rain", "retry_quarantined": True}
        == run["conf"]
    )
    assert run["triggering_user_name"] == USER
    assert call("GET", path, VIEWER).json()["run"]["state"] == "queued"
    assert (
        call("POST", f"{PREFIX}/data/quarantine/car-01/nosuch/again", USER, headers=OURS).status_code == 404
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("datasets/Bad..Name", 422),
        ("datasets/none", 404),
        ("datasets?page=0", 422),
        ("datasets?limit=100000", 422),
        ("jobs/nowhere/x", 404),
        ("nodes/idc-b/..%2f..", 404),
        ("sync/idc-z", 404),
        ("quarantine/..%2f/x", 404),
        ("quarantine/%2e%2e/x", 422),
    ],
)
def test_what_is_not_there_or_not_legal_is_said(call: Call, path: str, status: int) -> None:
    answer = call("GET", f"{PREFIX}/data/{path}", VIEWER)
    assert answer.status_code == status, answer.text


def test_files_are_asked_again_and_not_sent_again(call: Call) -> None:
    first = call("GET", f"{PREFIX}/static/common.js", VIEWER)
    assert first.headers["content-type"].startswith("text/javascript")
    again = call(
        "GET", f"{PREFIX}/static/common.js", VIEWER, headers={"If-None-Match": first.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    for name in ("page.html", "..%2fapp.py", "none.js"):
        assert call("GET", f"{PREFIX}/static/{name}", VIEWER).status_code == 404


def test_airflow_lists_every_page(call: Call) -> None:
    plugins = call("GET", "/api/v2/plugins", ADMIN).json()["plugins"]
    mine: dict[str, Any] = next(one for one in plugins if one["name"] == "outlap")
    assert [view["url_route"] for view in mine["external_views"]] == [f"outlap-{page}" for page in PAGES]
    assert all(not view["href"].startswith("/") for view in views())


@pytest.fixture
def controlled(site: Site, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """The control service of the site's idc-b, with nodes and a job of each kind; that of idc-c is down."""
    monkeypatch.setenv("OUTLAP_HOME", str(site.home))
    return Sources(load_config(), Memory())


def test_jobs_nodes_and_residency_beside_a_control_service_that_is_down(
    controlled: Sources, site: Site
) -> None:
    src, made = controlled, site.jobs
    told = jobs.list_jobs(src, ALL)
    states = {row["id"]: row["state"] for row in told["rows"]}
    assert {made[name].id: name for name in ("done", "failed")}.items() <= states.items()
    assert told["rows"][0]["state"] == "running"  # what is under way comes first
    assert {one["idc"]: one["problem"] is not None for one in told["services"]} == {
        "idc-b": False,
        "idc-c": True,
    }
    assert {row["state"] for row in jobs.list_jobs(src, ALL, state="active")["rows"]} == {"running"}
    assert jobs.list_jobs(src, Asking(search="night-rain"))["rows"][0]["state"] == "failed"

    failed = jobs.show_job(src, "idc-b", made["failed"].id, ALL)
    assert failed["orders"] == ["resume"]
    assert failed["failures_total"] == 2
    assert {(one["node"], one["path"].rsplit("/", 1)[1]) for one in failed["failures"]} == {
        ("b5", f"{3:019d}.jpg"),
        ("b5", f"{17:019d}.jpg"),
    }
    assert failed["node_states"] == {"resident": 4, "failed": 1}
    running = jobs.show_job(src, "idc-b", made["running"].id, Asking(sort="bytes_done", limit=2))
    assert (running["nodes"]["pages"], len(running["nodes"]["rows"])) == (3, 2)
    assert running["nodes"]["rows"][0]["node"] == "b1"  # the slowest first
    with pytest.raises(NotFound):
        jobs.show_job(src, "idc-b", "nosuch", ALL)
    with pytest.raises(CacheError):
        jobs.show_job(src, "idc-c", "nosuch", ALL)

    listed = nodes.list_nodes(src, Asking(sort="hit_part", descending=True))
    assert [row["node"] for row in listed["rows"]][:2] == ["b1", "b2"]
    assert {row["node"]: row["state"] for row in listed["rows"]}["b4"] == "disk trouble"
    assert nodes.list_nodes(src, ALL, role="cache")["total"] == 2
    assert nodes.list_nodes(src, ALL, holds=f"{world.SMALL}@v1")["total"] == 5
    assert nodes.list_nodes(src, ALL, holds=f"{world.SMALL}@v2")["total"] == 0
    one = nodes.show_node(src, "idc-b", "b4")
    assert {f"{held['dataset']}@{held['tag']}" for held in one["holds"]} == {
        f"{world.DATASET}@v2",
        f"{world.DATASET}@v3",
        f"{world.SMALL}@v1",
    }
    versions = {f"{row['dataset']}@{row['tag']}": row for row in nodes.list_residency(src, ALL)["rows"]}
    assert (versions[f"{world.DATASET}@v2"]["resident"], versions[f"{world.DATASET}@v2"]["mounted"]) == (5, 2)
    assert (versions[f"{world.SMALL}@v1"]["resident"], versions[f"{world.SMALL}@v1"]["failed"]) == (4, 1)
    assert versions[f"{world.DATASET}@v3"]["underway"] == 5


def test_a_job_is_cancelled_and_resumed(controlled: Sources, site: Site) -> None:
    version = site.known[f"{world.DATASET}@v1"]
    site.nodes.moving[version] = 0.1
    with Control(site.control, world.TOKEN) as client:
        job = client.warm(WarmRequest(dataset=world.DATASET, ref="v1", nodes="b1,b2")).id
    try:
        assert jobs.show_job(controlled, "idc-b", job, ALL)["orders"] == ["cancel"]
        assert control.give_order(controlled, "idc-b", job, "cancel").state == "cancelled"
        assert jobs.show_job(controlled, "idc-b", job, ALL)["orders"] == ["resume"]
        again = control.give_order(controlled, "idc-b", job, "resume")
        assert again.id != job
        assert jobs.show_job(controlled, "idc-b", again.id, ALL)["state"] in ("queued", "running")
    finally:
        del site.nodes.moving[version]
    servers.until(
        lambda: control.job_of(controlled, "idc-b", again.id).state == "done", "the job that goes on"
    )


def test_a_silent_node_is_told_so(controlled: Sources) -> None:
    servers.until(
        lambda: nodes.list_nodes(controlled, ALL, state="silent")["total"] == 1, "b6 to be silent", 20
    )
    assert nodes.list_nodes(controlled, ALL)["counts"] == {"alive": 4, "disk trouble": 1, "silent": 1}


@pytest.mark.parametrize("visit", ["light", "dark"], indirect=True)
def test_each_page_opens_from_the_menu_and_is_readable(visit: Visit, request: pytest.FixtureRequest) -> None:
    scheme = request.node.callspec.params["visit"]
    for name, title in PAGES.items():
        visit.by_menu(name)
        html = visit.inside.locator("html")
        assert html.get_attribute("data-theme") == scheme
        expect(visit.inside.get_by_role("heading", level=1)).to_have_text(title)
        expect(visit.inside.locator("nav.pages a[aria-current=page]")).to_have_text(title)
        assert html.evaluate(READABLE) == {"faint": [], "nameless": []}
        assert html.evaluate("e => e.scrollWidth <= e.clientWidth"), f"{name} is wider than its frame"
        visit.keep(f"{name}-{scheme}")
    # a zoom of 200 % is half the room: pages still fit, and wide tables scroll by themselves
    visit.page.set_viewport_size({"width": 640, "height": 800})
    visit.by_menu("nodes")
    assert visit.inside.locator("html").evaluate("e => e.scrollWidth <= e.clientWidth")
    assert visit.inside.locator(".scroll").evaluate("e => e.scrollWidth > e.clientWidth && e.tabIndex === 0")


def test_the_theme_follows_airflows_own_button(visit: Visit) -> None:
    visit.by_menu("datasets")
    theme = visit.inside.locator("html")
    assert theme.get_attribute("data-theme") == "light"
    visit.page.evaluate("document.documentElement.classList.replace('light', 'dark')")
    expect(theme).to_have_attribute("data-theme", "dark")


def test_links_of_tasks_lead_to_the_version_the_job_and_the_way(visit: Visit, site: Site) -> None:
    version, job = site.known[f"{world.DATASET}@v3"], site.jobs["failed"].id
    inside = visit.inside
    for page, asked, seen in (
        ("version", {"dataset": world.DATASET, "version": version}, "What changed"),
        ("job", {"idc": "idc-b", "job": job}, "Failures: 2"),
        ("trace", {"dataset": world.DATASET, "version": version}, "idc-b"),
    ):
        visit.page.goto(site.url + re.sub(r"^https?://[^/]+", "", page_url(page, **asked)))
        expect(inside.get_by_role("heading", name=seen)).to_be_visible(timeout=30_000)
        visit.keep(f"{page}-detail")
    # the address is one that can be handed on
    visit.page.reload()
    expect(inside.get_by_role("heading", name="Trained on")).to_be_visible()
    # between our pages Airflow is not loaded anew, and its menu follows
    visit.page.evaluate("window.isSame = true")
    inside.get_by_role("link", name="All about this version").click()
    expect(inside.get_by_role("heading", name="What made it")).to_be_visible()
    assert visit.page.evaluate("window.isSame") is True
    assert "/plugin/outlap-datasets" in visit.page.url
    visit.page.go_back()
    expect(inside.get_by_role("heading", name="Trained on")).to_be_visible()


def test_by_keyboard_alone_a_drive_is_tried_again(visit: Visit) -> None:
    visit.by_menu("quarantine")
    keyboard, inside = visit.page.keyboard, visit.inside
    inside.locator("body").evaluate("e => { e.tabIndex = -1; e.focus(); }")

    def focused() -> str:
        name = "at.getAttribute('aria-label') || at.textContent || at.id"
        return str(
            inside.locator("body").evaluate(f"() => {{ const at = document.activeElement; return {name}; }}")
        )

    keyboard.press("Tab")
    assert focused() == "Skip to the content"
    keyboard.press("Enter")
    keyboard.press("Tab")
    assert focused() == "search"
    keyboard.type("dusk")
    expect(inside.locator("tbody tr")).to_have_count(1)
    wanted = "Try car-03/2026-11-07-dusk again"
    steps = []
    for _ in range(20):
        keyboard.press("Tab")
        steps.append(focused())
        outline = inside.locator("body").evaluate(
            "() => getComputedStyle(document.activeElement).outlineStyle"
        )
        assert outline != "none", f"nobody sees where the focus is: {steps[-1]}"
        if steps[-1] == wanted:
            break
    assert steps[-1] == wanted
    assert "Drive↕" in steps or "Drive" in [step.rstrip("↕") for step in steps]  # heads sort by keyboard
    keyboard.press("Enter")
    expect(inside.locator("#said")).to_contain_text("car-03/2026-11-07-dusk is tried again")
    expect(inside.locator("tbody")).to_contain_text("queued")
    expect(inside.get_by_role("button", name=wanted)).to_be_disabled()


def test_a_warm_up_is_followed_cancelled_and_resumed(visit: Visit, site: Site) -> None:
    inside = visit.inside
    visit.by_menu("jobs")
    visit.page.goto(f"{site.url}/plugin/outlap-jobs?idc=idc-b&job={site.jobs['running'].id}")
    share = inside.locator(".big .share")
    before = share.inner_text(timeout=30_000)
    expect(share).not_to_have_text(before, timeout=20_000)  # by itself
    expect(inside.locator("#said")).to_contain_text("per cent")
    inside.get_by_role("button", name="Cancel this warm-up").click()
    inside.get_by_role("button", name="Really cancel?").click()
    expect(inside.locator(".big .state")).to_contain_text("cancelled", timeout=20_000)
    inside.get_by_role("button", name="Resume this warm-up").click()
    inside.locator(".notice").get_by_role("link").click()
    expect(inside.locator(".big .state")).to_contain_text("running", timeout=20_000)


def test_what_a_car_wrote_stays_text(visit: Visit) -> None:
    visit.by_menu("quarantine")
    expect(visit.inside.get_by_text('<img src=x onerror="alert(1)">')).to_be_visible()
    assert visit.inside.locator("main img").count() == 0


def test_a_viewer_sees_why_a_button_is_off(browser: Browser, site: Site, logins: dict[str, Any]) -> None:
    context = browser.new_context(storage_state=logins["ann"])
    seen = Visit(context, site)
    seen.page.goto(f"{site.url}/plugin/outlap-jobs?idc=idc-b&job={site.jobs['failed'].id}")
    expect(seen.inside.get_by_role("button", name="Resume this warm-up")).to_be_disabled(timeout=30_000)
    expect(seen.inside.get_by_text("Your role may not run warm_dataset.")).to_be_visible()
    context.close()
    assert seen.wrong == []


def test_lists_are_sorted_narrowed_and_shared_by_address(visit: Visit, site: Site) -> None:
    visit.by_menu("nodes")
    inside = visit.inside
    inside.get_by_role("button", name="Hit rate").click()
    expect(inside.locator("th[aria-sort=descending]")).to_contain_text("Hit rate")
    expect(inside.locator("tbody tr").first).to_contain_text("b1")
    inside.get_by_label("State").select_option("silent")
    expect(inside.locator("tbody tr")).to_have_count(1)
    expect(inside.locator("tbody tr")).to_contain_text("b6")
    inside.get_by_label("Search").fill("nothing like it")
    expect(inside.get_by_text("Nothing fits these filters.")).to_be_visible()
    inside.get_by_role("button", name="Show everything").click()
    expect(inside.locator("tbody tr")).to_have_count(6)
    inside.locator("summary").click()
    expect(inside.get_by_text("Connection refused")).to_be_visible()
    inside.get_by_role("link", name="b4").click()
    expect(inside.get_by_role("heading", name="Cache directories")).to_be_visible()
    # Airflow's own entry leads back to the list
    visit.by_menu("nodes")
