"""What a store says when it refuses: its own code and message, and what to set about it.

S3 answers an error as XML with a code and a message (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html). An answer to
HEAD has no body, so there only the status is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions as obs_errors

from lake.errors import Conflict, LakeError, NotFound, StoreDown

DOWN = "check that it is up (`outlap status`) and that the settings are right, then run again: finished work is kept"
_CODE = re.compile(r"<Code>\s*([^<]{1,80}?)\s*</Code>")
_MESSAGE = re.compile(r"<Message>\s*([^<]{1,300}?)\s*</Message>")
_STATUS = re.compile(r"status code: (\d{3}[^:]{0,40})")
_PROXY = "connect to the store itself, or set the proxy before it so that it passes requests unchanged"
_KEYS = "check the keys that [store.{name}] names (access_key_id, secret_access_key)"
_CLOCK = "set the clock of this machine, for example by NTP"
_TOKEN = "get new credentials: session_token and both keys of [store.{name}] belong together"  # noqa: S105
_ADDRESSING = 'set addressing = "virtual" in [store.{name}]'
_REGION = "set region (and endpoint) of [store.{name}] to those of the bucket"
_BUCKET = "check the bucket in url of [store.{name}]"
_POLICY = "ask whoever runs the bucket to allow this ({verb}), or set what its policy wants"
FIXES = {
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": f"{_KEYS}; {_PROXY}",
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _TOKEN,
    "ExpiredTokenException": _TOKEN,
    "TokenRefreshRequired": _TOKEN,
    "InvalidToken": _TOKEN,
    "SecondLevelDomainForbidden": _ADDRESSING,
    "InvalidAddressingHeader": _ADDRESSING,
    "VirtualHostDomainRequired": _ADDRESSING,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "NoSuchBucket": _BUCKET,
    "InvalidBucketName": _BUCKET,
    "AllAccessDisabled": _BUCKET,
    "AccountProblem": "ask whoever runs the store about the account",
    "AccessDenied": _POLICY,
    "NotImplemented": "use a store that has this, or a release of it that does (`outlap doctor` says what is needed)",
}
_KMS = 'set encryption = "aws:kms" (and kms_key_id) in [store.{name}]'


def refusal(text: str) -> tuple[str, str]:
    """(code, message) of an error answer of S3; empty where the text has none."""
    code, message = _CODE.search(text), _MESSAGE.search(text)
    return (code[1] if code else "", " ".join(message[1].split()) if message else "")


def _fix(code: str, message: str, name: str, verb: str) -> str | None:
    if code in ("AccessDenied", "InvalidArgument") and re.search(
        r"kms|server-side-encryption", message, re.I
    ):
        return _KMS.format(name=name)
    if code == "AccessDenied" and re.search(r"expired", message, re.I):
        return _CLOCK
    return FIXES[code].format(name=name, verb=verb) if code in FIXES else None


def store_down(what: str, text: str, *, name: str, verb: str) -> StoreDown:
    """The error for what a store answered.

    Args:
        what: the request, for people.
        text: what the client library or the store says, with the XML of the answer where there is one.
        name: of the store in the settings.
        verb: what was asked for, as `write`.
    """
    code, message = refusal(text)
    fix = _fix(code, message, name, verb)
    if code == "RequestTimeTooSkewed":
        return StoreDown(
            what, f"the clock of this machine is not that of the store ({code}: {message})", _CLOCK
        )
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StoreDown(what, f"the store refuses our credentials ({code}: {message})", fix or DOWN)
    if code:
        return StoreDown(what, f"the store refuses: {code}: {message or 'it gives no message'}", fix or DOWN)
    if "redirect without LOCATION" in text:
        return StoreDown(
            what, "the store sends us elsewhere, and does not say where", _REGION.format(name=name)
        )
    status = _STATUS.search(text)
    if status and status[1][:3] in ("401", "403"):
        why = f"the store refuses with {status[1].strip()}, and says no reason"
        return StoreDown(
            what, why, f"{_KEYS.format(name=name)} and the bucket's policy; `outlap doctor` asks it why"
        )
    return StoreDown(what, one_line(text), DOWN)


def one_line(text: str) -> str:
    """One line of what obstore says: its debug text follows after a blank line."""
    return " ".join(text.split("\n\nDebug source")[0].split())[:300]


@contextmanager
def explained(name: str, where: str, key: str, verb: str) -> Iterator[None]:
    """Errors of obstore become errors of the lake, which name the request.

    Args:
        name: of the store.
        where: its address, for people, without secrets.
        key: what was asked for; empty for the bucket.
        verb: what was asked.

    Raises:
        NotFound, Conflict, StoreDown
    """
    what = f"{verb} {key or 'the bucket'} in store {name} ({where})"
    try:
        yield
    except LakeError:
        raise
    except (obs_errors.PreconditionError, obs_errors.AlreadyExistsError) as error:
        raise Conflict(what, "another writer was first", "run it again") from error
    except (FileNotFoundError, obs_errors.NotFoundError) as error:
        if refusal(str(error))[0] == "NoSuchBucket":
            raise store_down(what, str(error), name=name, verb=verb) from error
        raise NotFound(f"{key} in store {name}", "there is no such object") from error
    except (obs_errors.BaseError, OSError) as error:
        raise store_down(what, str(error) or type(error).__name__, name=name, verb=verb) from error
