"""`python -m cacheengine.control`: the control service of one IDC."""

from __future__ import annotations

import os
import sys

import structlog
import uvicorn

from cacheengine import descriptors
from cacheengine.control.app import create_app
from cacheengine.control.limits import limited
from cacheengine.control.settings import load_settings
from cacheengine.logs import log_as_json
from lake.config import load_config
from lake.errors import Explained
from lake.stores import Store, open_store

log = structlog.get_logger("outlap.control")


def main() -> int:
    """Serve until told to stop. 2: the settings, the database or the token file cannot be used."""
    log_as_json()
    os.umask(0o077)  # the database holds the group's secret
    descriptors.raise_limit()  # a connection of each node waits for what it should hold
    try:
        settings = load_settings()
        config = load_config()
        idc = config.idc_named(settings.idc or None)
        lake = config.store_named(idc.store)

        def open_lake() -> Store:
            return open_store(lake, idc.name)

        app = create_app(settings, open_lake, idc.name)
    except Explained as error:
        log.error("cannot start", error=str(error))
        return 2
    log.info("control starts", idc=idc.name, listen=settings.listen)
    uvicorn.run(
        limited(app, settings.max_body_bytes),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        # X-Forwarded-For would let a caller choose the address that its token's CIDR is checked against
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        # longer than any node's interval: a connection that is closed just as it is used again looks like a failure
        timeout_keep_alive=120,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
