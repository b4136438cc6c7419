"""What a token allows, and that only its hash is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from cacheengine.control import tables, tokens
from cacheengine.errors import Unauthorised
from cacheengine.wire import TokenAnswer, TokenRequest
from lake.errors import Conflict, NotFound, Refused


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return tables.open_database(f"sqlite:///{tmp_path}/control.db")


def scope(*verbs: str, datasets: tuple[str, ...] = ("*",), cidr: str | None = None) -> TokenAnswer:
    return TokenAnswer(name="t", verbs=verbs, datasets=datasets, cidr=cidr)


def test_a_token_is_shown_once_and_kept_as_a_hash(engine: Engine, tmp_path: Path) -> None:
    with tables.writing(engine) as connection:
        made = tokens.create(connection, TokenRequest(name="ci", verbs=("warm",), datasets=("city",)))
        assert made.token
        assert [one.token for one in tokens.list_tokens(connection)] == [None]
        assert tokens.identify(connection, f"Bearer {made.token}").name == "ci"
        kept = connection.execute(select(tables.tokens)).one()
    assert made.token not in str(kept)
    for file in tmp_path.iterdir():
        assert made.token.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "Bearer \udcff"]
)
def test_who_is_not_known_is_refused(engine: Engine, header: str | None) -> None:
    with engine.connect() as connection, pytest.raises(Unauthorised):
        tokens.identify(connection, header)


def test_a_deleted_token_is_refused_and_names_are_taken_once(engine: Engine) -> None:
    request = TokenRequest(name="ci", verbs=("read",))
    with tables.writing(engine) as connection:
        made = tokens.create(connection, request)
    with pytest.raises(Conflict), tables.writing(engine) as connection:
        tokens.create(connection, request)
    with tables.writing(engine) as connection:
        tokens.remove(connection, "ci")
    with engine.connect() as connection, pytest.raises(Unauthorised):
        tokens.identify(connection, f"Bearer {made.token}")
    with tables.writing(engine) as connection, pytest.raises(NotFound):
        tokens.remove(connection, "ci")


@pytest.mark.parametrize(
    "request_",
    [
        TokenRequest(name="a b", verbs=("read",)),
        TokenRequest(name="a", verbs=()),
        TokenRequest(name="a", verbs=("fly",)),
        TokenRequest(name="a", verbs=("read",), datasets=()),
        TokenRequest(name="a", verbs=("read",), datasets=("",)),
        TokenRequest(name="a", verbs=("read",), cidr="10.0.0.0/99"),
        TokenRequest(name="a", verbs=("read",), cidr="everywhere"),
    ],
)
def test_a_scope_that_says_nothing_clear_is_refused(engine: Engine, request_: TokenRequest) -> None:
    with tables.writing(engine) as connection, pytest.raises(Refused):
        tokens.create(connection, request_)


@pytest.mark.parametrize(
    ("found", "verb", "dataset", "allowed"),
    [
        (scope("warm"), "warm", "city", True),
        (scope("warm"), "free", "city", False),
        (scope("warm"), "read", "city", True),
        (scope("node"), "read", "city", False),
        (scope("node"), "warm", "city", False),
        (scope("admin"), "free", "city", True),
        (scope("warm", datasets=("city",)), "warm", "city-night", True),
        (scope("warm", datasets=("city*",)), "warm", "city-night", True),
        (scope("warm", datasets=("city",)), "warm", "town", False),
        (scope("warm", datasets=("town", "city")), "warm", "city", True),
        (scope("admin", datasets=("city",)), "warm", "town", False),
    ],
)
def test_verbs_and_prefixes(found: TokenAnswer, verb: str, dataset: str, allowed: bool) -> None:
    if allowed:
        tokens.check(found, verb, dataset)
    else:
        with pytest.raises(Unauthorised):
            tokens.check(found, verb, dataset)


@pytest.mark.parametrize(
    ("cidr", "address", "allowed"),
    [
        (None, None, True),
        ("10.0.0.0/8", "10.9.8.7", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "::1", False),
        ("10.0.0.0/8", None, False),
        ("10.0.0.0/8", "testclient", False),
        ("fd00::/8", "fd00::1", True),
    ],
)
def test_addresses(cidr: str | None, address: str | None, allowed: bool) -> None:
    assert tokens.address_allowed(scope("read", cidr=cidr), address) is allowed


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_dataset_is_allowed_only_under_one_of_the_prefixes(dataset: str, prefixes: list[str]) -> None:
    found = scope("read", datasets=tuple(prefixes))
    stripped = [prefix[:-1] if prefix.endswith("*") else prefix for prefix in prefixes]
    assert tokens.dataset_allowed(found, dataset) is any(dataset[: len(p)] == p for p in stripped)


def test_the_admin_token_file_is_made_once_and_private(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "admin.token"
    tokens.admin_token(engine, path)
    token = path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["admin.token"]
    tokens.admin_token(engine, path)
    assert path.read_text().strip() == token
    path.write_text("a-new-token-that-someone-rotated-in\n")
    tokens.admin_token(engine, path)
    with engine.connect() as connection:
        tokens.identify(connection, "bearer a-new-token-that-someone-rotated-in")
        with pytest.raises(Unauthorised):
            tokens.identify(connection, f"Bearer {token}")


def test_a_guessable_admin_token_and_the_deletion_of_it_are_refused(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "admin.token"
    path.write_text("")
    with pytest.raises(Refused):
        tokens.admin_token(engine, path)
    with tables.writing(engine) as connection, pytest.raises(Refused):
        tokens.remove(connection, "admin")
