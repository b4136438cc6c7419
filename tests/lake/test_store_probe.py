"""Stores that lack what the lake needs, or refuse for a reason of their own: found at the first write, and named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lake import publish, refs, store_probe, stores
from lake.errors import Refused, StoreDown
from lake.store_errors import store_down
from outlap.commands import doctor
from tests import faulty_store
from tests.faulty_store import faulty, refusing, without
from tests.lake.test_keeping import folder_of


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


def keys(store):
    return [info.key for info in stores.list_objects(store, "")]


def conditional(method, headers):
    return method == "PUT" and {name.lower() for name in headers} & {"if-none-match", "if-match"} != set()


LACKS = {
    "drops If-None-Match": ({"request": without("if-none-match")}, "ignores If-None-Match"),
    "drops If-Match": ({"request": without("if-match")}, "ignores If-Match"),
    "drops both": ({"request": without("if-none-match", "if-match")}, "ignores If-None-Match"),
    "does not implement": (
        {"refuse": refusing(501, "NotImplemented", "A header you provided implies more", only=conditional)},
        "refuses a PUT with If-None-Match .*NotImplemented: A header",
    ),
    "weak": ({"answer": faulty_store.weak_etags}, "ETags are weak"),
    "changing": ({"answer": faulty_store.other_etags}, "nobody changed changes"),
    "none": ({"answer": faulty_store.no_etags}, "gives no ETag"),
}


@pytest.mark.fault("C4", "C15")
@pytest.mark.parametrize("name", LACKS)
def test_a_store_that_lacks_what_the_lake_needs_is_refused_at_the_first_write(name, store_config, tmp_path):
    how, said = LACKS[name]
    config = store_config()
    direct = stores.open_store(config)
    with faulty(config.endpoint, **how) as endpoint:
        store = stores.open_store(config.model_copy(update={"endpoint": endpoint}))
        folder = folder_of(tmp_path, {"x": b"1"})
        for _ in range(2):  # it is never remembered as good
            with pytest.raises(Refused, match=said) as caught:
                publish.publish_folder(store, "a", folder, tmp_path, {})
            assert "the store lake" in caught.value.what and "If-None-Match and If-Match" in caught.value.fix
        with pytest.raises(Refused, match=said):
            refs.write_ref(store, refs.Ref("a", "v1", "ab" * 32, 1))
        assert store_probe.probe(store.name, store.where, store.obs) != []
    assert keys(direct) == [], "nothing was written, and the trial left nothing"


@pytest.mark.fault("C4")
def test_a_good_store_is_asked_once_a_day(store_config, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("OUTLAP_HOME", str(home))
    config, asked = store_config(), []
    real = store_probe.probe
    monkeypatch.setattr(store_probe, "probe", lambda *args: asked.append(1) or real(*args))
    store = stores.open_store(config)
    assert store_probe.probe(store.name, store.where, store.obs) == [] and keys(store) == []
    asked.clear()
    for number in range(3):
        assert stores.put_if_absent(store, f"k{number}", b"")
    assert asked == [1]
    program = (
        "import sys; from lake import store_probe, stores; from lake.config import StoreConfig; "
        "store_probe.probe = None; "
        "stores.put_if_absent(stores.open_store(StoreConfig.model_validate_json(sys.argv[1])), 'another', b'')"
    )
    subprocess.run([sys.executable, "-c", program, config.model_dump_json()], check=True, timeout=60)
    assert sorted(keys(store)) == ["another", "k0", "k1", "k2"]


@pytest.mark.fault("C4")
def test_doctor_names_what_a_store_lacks(store_config, tmp_path, monkeypatch):
    config = store_config("lake-q")
    with faulty(config.endpoint, request=without("if-match")) as endpoint:
        lines = [
            'here = "i"',
            "[idc.i]",
            'store = "lake-q"',
            "[store.lake-q]",
            'idc = "i"',
            f'url = "{config.url}"',
            f'endpoint = "{endpoint}"',
            'access_key_id = { env = "TEST_STORE_KEY_ID" }',
            'secret_access_key = { env = "TEST_STORE_KEY" }',
        ]
        (tmp_path / "it.toml").write_text("\n".join(lines))
        monkeypatch.setenv("OUTLAP_CONFIG", str(tmp_path / "it.toml"))
        (check,) = list(doctor.store_checks())
        assert check.name == "store lake-q" and check.ok is False
        assert "ignores If-Match" in check.found and check.fix == store_probe.FIX
    monkeypatch.setenv("TEST_STORE_KEY", "wrong")
    (check,) = list(doctor.store_checks())
    assert check.ok is False and check.fix
    (tmp_path / "it.toml").write_text("\n".join(lines).replace(endpoint, config.endpoint))
    (check,) = list(doctor.store_checks())
    assert check.ok is False and "SignatureDoesNotMatch" in check.found
    monkeypatch.setenv("TEST_STORE_KEY", "tester-secret")
    (check,) = list(doctor.store_checks())
    assert check.ok is True and "conditional writes" in check.found


def is_write(method, headers):
    return method in ("PUT", "POST")


SAYS = {
    "kms": (
        403,
        "AccessDenied",
        "explicit deny: s3:x-amz-server-side-encryption must be aws:kms",
        'encryption = "aws:kms"',
    ),
    "policy": (403, "AccessDenied", "Access Denied by bucket policy", "allow this"),
    "path style": (
        403,
        "SecondLevelDomainForbidden",
        "must be addressed using OSS third level domain",
        'addressing = "virtual"',
    ),
    "token": (400, "ExpiredToken", "The provided token has expired.", "session_token"),
    "region": (
        400,
        "AuthorizationHeaderMalformed",
        "the region is wrong; expecting 'cn-beijing'",
        "set region",
    ),
    "redirect": (301, "PermanentRedirect", "must be addressed using the specified endpoint", "endpoint"),
    "keys": (403, "InvalidAccessKeyId", "The key does not exist", "access_key_id"),
}


@pytest.mark.fault("C15")
@pytest.mark.parametrize("name", SAYS)
def test_what_a_store_says_is_told_with_what_to_set(name, store_config):
    status, code, message, fix = SAYS[name]
    config = store_config()
    with faulty(config.endpoint, refuse=refusing(status, code, message)) as endpoint:
        store = stores.open_store(config.model_copy(update={"endpoint": endpoint}))
        for ask in (
            lambda: stores.put(store, "k", b""),
            lambda: stores.put_if_absent(store, "k", b""),
            lambda: stores.get(store, "k"),
            lambda: list(stores.list_objects(store, "")),
        ):
            with pytest.raises(StoreDown) as caught:
                ask()
            assert fix in caught.value.fix
            if status != 301:  # the client keeps what a redirect without an address says to itself
                assert code in caught.value.why and message in caught.value.why
            assert "Debug" not in str(caught.value) and "others moved" not in str(caught.value)
        if status == 403:
            with pytest.raises(StoreDown, match="says no reason") as caught:
                stores.head(store, "k")
            assert "doctor" in caught.value.fix


def test_an_answer_that_is_no_xml_is_one_line():
    error = store_down("write k", "something\n\nDebug source\nlong", name="lake", verb="write")
    assert error.why == "something"


@pytest.mark.fault("C15")
def test_what_to_set_is_sent(store_config):
    config = store_config()
    seen: list[dict[str, str]] = []

    def note(method, headers):
        seen.append({name.lower(): value for name, value in headers.items()} | {"method": method})
        return None

    with faulty(config.endpoint, refuse=note) as endpoint:
        host = endpoint.removeprefix("http://127.0.0.1")
        changed = {
            "endpoint": f"http://localhost{host}",
            "encryption": "aws:kms",
            "kms_key_id": "key-1",
            "session_token": config.access_key_id,
        }
        store = stores.open_store(config.model_copy(update=changed))
        with pytest.raises(StoreDown):
            stores.put(store, "k", b"v")  # this store keeps no such key
        virtual = stores.open_store(
            config.model_copy(update={"addressing": "virtual", "endpoint": changed["endpoint"]})
        )
        assert json.dumps(str(virtual.obs.config))
    sent = next(one for one in seen if one["method"] == "PUT")
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert sent["x-amz-security-token"] == "tester"
