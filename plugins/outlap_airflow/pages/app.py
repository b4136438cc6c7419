"""The app at /outlap/ui: the pages, their files, their data. The plugin mounts it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import HTMLResponse
from starlette.responses import Response

from lake.canonical import blake3_hex
from outlap_airflow.api.errors import explain
from outlap_airflow.pages.views import PAGES

STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# nothing from elsewhere, no script or style in a page itself, and no frame but Airflow's
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


def create_app() -> FastAPI:
    """The app. Only the API server makes one: it needs Airflow's auth manager."""
    from outlap_airflow.pages import access, routes

    app = FastAPI(title="Outlap pages", openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(routes.router)
    explain(app)
    template = (STATIC / "page.html").read_text(encoding="utf-8")
    links = "\n      ".join(
        f'<a href="../../plugin/outlap-{page}" target="_top" data-page="{page}">{escape(title)}</a>'
        for page, title in PAGES.items()
    )
    files = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in _TYPES}

    @app.get("/static/{name}", dependencies=access.opens())
    def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """A script, a style or a picture. The browser asks again each time, so that a new release is seen, and mostly gets a 304."""
        if name not in files:
            raise HTTPException(404)
        headers = {"Cache-Control": "no-cache", "ETag": f'"{blake3_hex(files[name])[:32]}"'}
        if if_none_match == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    @app.get("/{page}", dependencies=access.opens())
    def show(page: str) -> HTMLResponse:
        """A page without data: its script asks for that."""
        if page not in PAGES:
            raise HTTPException(404)
        html = template.replace("{{page}}", page).replace("{{title}}", escape(PAGES[page]))
        html = html.replace("{{links}}", links)
        return HTMLResponse(html, headers={"Cache-Control": "no-cache"})

    @app.middleware("http")
    async def harden(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await go_on(request)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        if "/data/" in request.url.path:
            answer.headers["Cache-Control"] = "no-store"
        return answer

    return app
