"""The ways to tell people: an email, a webhook, and where neither is set the log. Each is a function of a Message; one that cannot be
told raises NotTold.

A webhook gets a POST of JSON: {"id", "kind", "state": "open" | "ended", "title", "text", "idc", "at"}.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Literal

from lake.config import read_secret
from lake.errors import Explained
from outlap_airflow.settings import AlertSettings, EmailSettings, WebhookSettings

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
TRIES = 3


class NotTold(Explained):
    """A notifier could not be reached, or refused."""


@dataclass(frozen=True)
class Message:
    """id: the same for the beginning and the end of a trouble; at: ISO 8601, UTC."""

    id: str
    kind: str
    state: Literal["open", "ended"]
    title: str
    text: str
    idc: str
    at: str


Notifier = Callable[[Message], None]


def notifiers(settings: AlertSettings) -> dict[str, Notifier]:
    """Those that the settings describe, by name; where they describe none, the log, beside what the pages show of open alerts."""
    found: dict[str, Notifier] = {}
    if settings.email is not None:
        email = settings.email
        found["email"] = lambda message: send_email(email, message)
    if settings.webhook is not None:
        webhook = settings.webhook
        found["webhook"] = lambda message: post(webhook, message)
    return found or {"log": write_log}


def write_log(message: Message) -> None:
    """A line that stands out in the log of the task."""
    level = logging.ERROR if message.state == "open" else logging.INFO
    log.log(level, "ALERT %s (%s): %s. %s", message.state, message.id, message.title, message.text)


def send_email(settings: EmailSettings, message: Message) -> None:
    """One mail to all addresses. Raises NotTold; NotFound for a secret that is not there."""
    mail = EmailMessage()
    mail["From"], mail["To"] = settings.sender, ", ".join(settings.to)
    mail["Subject"] = f"[outlap] {'ended: ' if message.state == 'ended' else ''}{message.title}".replace(
        "\n", " "
    )
    mail["Date"] = format_datetime(datetime.fromisoformat(message.at))
    mail["X-Outlap-Alert"] = message.id
    mail.set_content(f"{message.text}\n\nIDC {message.idc}, {message.at}, alert {message.id}\n")
    password = read_secret(settings.password) if settings.password is not None else None
    try:
        with smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_S) as server:
            if settings.starttls:
                server.starttls(context=ssl.create_default_context())
            if settings.user is not None and password is not None:
                server.login(settings.user, password)
            refused = server.send_message(mail)
    except (smtplib.SMTPException, OSError) as error:
        # what the server says may repeat what we said to it: only its kind goes on
        why = f"{type(error).__name__} {getattr(error, 'smtp_code', '')}".strip()
        raise NotTold(
            f"the mail server {settings.host}:{settings.port}", why, "see [airflow.alerts.email]"
        ) from error
    if refused:
        raise NotTold(
            f"the mail server {settings.host}:{settings.port}", f"it refuses {', '.join(sorted(refused))}"
        )


def post(settings: WebhookSettings, message: Message) -> None:
    """A POST, tried again when nobody answers or the other side has a fault of its own. Raises NotTold; NotFound for a secret."""
    import httpx

    url = settings.url if isinstance(settings.url, str) else read_secret(settings.url)
    headers = {"Authorization": f"Bearer {read_secret(settings.token)}"} if settings.token is not None else {}
    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(0.5 * 2**attempt)
        try:
            answer = httpx.post(
                url, json=asdict(message), headers=headers, timeout=settings.timeout_s, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = type(error).__name__  # its text may hold the address, and that may be a secret
            continue
        if answer.status_code < 300:
            return
        why = f"it answers {answer.status_code}"
        if answer.status_code < 500 and answer.status_code != 429:
            break
    raise NotTold("the webhook", why, "see [airflow.alerts.webhook]")


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
