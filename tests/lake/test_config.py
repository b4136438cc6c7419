from __future__ import annotations

import pytest
from pydantic import BaseModel

from lake.config import SecretRef, load_config, read_secret
from lake.errors import NotFound, Refused

TEXT = """
here = "idc-a"
[idc.idc-a]
store = "lake-a"
[store.lake-a]
idc = "idc-a"
url = "s3://b"
endpoint = "http://127.0.0.1:1"
[node]
name = "n1"
quota = 5
"""


class Node(BaseModel):
    name: str
    quota: int = 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / "outlap.toml").write_text(TEXT)
    return tmp_path


def test_later_layers_win_key_by_key(home, tmp_path, monkeypatch):
    (home / "outlap.toml").write_text('[store.lake-a]\nurl = "s3://mine"\n')
    (home / "x.toml").write_text('[store.lake-a]\nregion = "eu"\n')
    monkeypatch.setenv("OUTLAP_CONFIG", str(home / "x.toml"))
    monkeypatch.setenv("OUTLAP_NODE_QUOTA", "7")
    config = load_config()
    store = config.store_named("lake-a")
    assert (config.idc, store.url, store.region, store.endpoint) == (
        "idc-a",
        "s3://mine",
        "eu",
        "http://127.0.0.1:1",
    )
    assert config.section("node", Node) == Node(name="n1", quota=7)


def test_nothing_is_legal_and_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    monkeypatch.delenv("OUTLAP_CONFIG", raising=False)
    monkeypatch.delenv("OUTLAP_IDC", raising=False)
    with pytest.raises(NotFound, match="outlap up"):
        load_config().idc_named()


def test_mistakes_are_named_without_their_values(home):
    (home / "outlap.toml").write_text('[store.lake-a]\nsecret_access_key = "do-not-show"\n')
    with pytest.raises(Refused, match="secret_access_key") as caught:
        load_config()
    assert "do-not-show" not in str(caught.value)
    (home / "outlap.toml").write_text("= =")
    with pytest.raises(Refused, match=r"outlap\.toml"):
        load_config()


def test_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("S", "one")
    (tmp_path / "s").write_text("two\n")
    assert read_secret(SecretRef(env="S")) == "one" and read_secret(SecretRef(file=tmp_path / "s")) == "two"
    for reference in (SecretRef(env="NONE_SUCH"), SecretRef(file=tmp_path / "none")):
        with pytest.raises(NotFound):
            read_secret(reference)
    with pytest.raises(ValueError, match="exactly one"):
        SecretRef()
