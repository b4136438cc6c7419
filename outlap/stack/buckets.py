"""Make the stack's buckets, and see that each takes, gives and forgets an object."""

from __future__ import annotations

import time
from typing import Any

import boto3
from botocore.config import Config as BotoConfig  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

from lake import stores
from lake.config import Config, StoreConfig, read_secret
from lake.errors import LakeError
from outlap.errors import StackError

PROBE = "outlap-probe"
PATIENCE_S = 60.0


def _client(store: StoreConfig) -> Any:
    assert store.access_key_id is not None and store.secret_access_key is not None
    return boto3.client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=read_secret(store.access_key_id),
        aws_secret_access_key=read_secret(store.secret_access_key),
        config=BotoConfig(
            proxies={},
            connect_timeout=5,
            read_timeout=30,
            retries={"max_attempts": 1},
            s3={"addressing_style": "path"},
        ),
    )


def _make(store: StoreConfig) -> None:
    try:
        _client(store).create_bucket(Bucket=store.url.removeprefix("s3://"))
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in (
            "BucketAlreadyOwnedByYou",
            "BucketAlreadyExists",
        ):
            raise


def make_buckets(config: Config, names: list[str]) -> None:
    """Raises StackError when a store does not take them in a minute: right after its start it still settles."""
    until = time.monotonic() + PATIENCE_S
    for name in names:
        store = config.store_named(name)
        while True:
            try:
                _make(store)
                handle = stores.open_store(store)
                stores.put(handle, PROBE, b"probe")
                if stores.get(handle, PROBE) != b"probe":
                    raise StackError(f"the bucket {name}", "it gave other bytes than it took")
                stores.delete(handle, PROBE)
                break
            except (BotoCoreError, ClientError, LakeError) as error:
                if time.monotonic() > until:
                    raise StackError(
                        f"the bucket {name}", str(error), f"read the log of store-{store.idc}"
                    ) from error
                time.sleep(0.3)
