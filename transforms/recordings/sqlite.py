"""ROS 2 bags of sqlite3 (rosbag2_storage_sqlite3): tables `topics` and `messages`, one row a message.

SQLite reads by pages through its own file, so this format alone needs the file on this machine. The file is opened read-only
and never trusted: views and triggers are not followed, damaged pages are a finding.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from transforms.errors import Unreadable
from transforms.recordings import Problem
from transforms.recordings.log import MAX_CHUNK, Message, Topic

MAGIC = b"SQLite format 3\0"
# rows of the two tables that no bag has more of
MOST_TOPICS = 100_000
# Python decodes what SQLite says, and that may quote damaged text
DAMAGE = (sqlite3.Error, UnicodeDecodeError)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )
    connection.execute("pragma trusted_schema = off")
    connection.execute("pragma cell_size_check = on")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CHUNK)
    return connection


@dataclass
class SqliteLog:
    """One file. name: for people."""

    path: Path
    name: str
    problems: list[Problem] = field(default_factory=list)

    def messages(self) -> Iterator[Message]:
        """Every message by time, as rosbag2 plays them. Raises Unreadable for what is no bag."""
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise Unreadable(self.name, "it does not begin as an SQLite file does")
        try:
            with closing(_connect(self.path)) as connection:
                tables = dict(
                    connection.execute(
                        "select name, type from sqlite_master where name in ('topics', 'messages')"
                    )
                )
                if tables != {"topics": "table", "messages": "table"}:
                    raise Unreadable(
                        self.name, "it has no tables `topics` and `messages`: it is no ROS 2 bag"
                    )
                yield from self._rows(connection)
        except DAMAGE as error:
            raise Unreadable(self.name, f"SQLite cannot read it: {error}") from error

    def _rows(self, connection: sqlite3.Connection) -> Iterator[Message]:
        topics = {
            number: Topic(str(name), str(encoding), str(schema))
            for number, name, schema, encoding in connection.execute(
                f"select id, name, type, serialization_format from topics limit {MOST_TOPICS}"  # noqa: S608
            )
        }
        try:
            # by row number, so that a pass reads the file once from front to back
            rows = connection.execute("select id, topic_id, timestamp, data from messages order by id")
            for number, topic, at, data in rows:
                # a damaged table may have another key, and then rows without a number
                fits = isinstance(number, int) and isinstance(at, int) and isinstance(data, bytes)
                if topic not in topics or not fits:
                    self.problems.append(
                        Problem("container", f"row {number} of its messages is of no topic, or is no message")
                    )
                    return
                yield Message(topics[topic], at, number, 0, memoryview(data))
        except DAMAGE as error:
            self.problems.append(Problem("container", f"SQLite finds damage: {error}"))
            return
        self._check(connection)

    def _check(self, connection: sqlite3.Connection) -> None:
        """Pages that no row led to may be damaged as well."""
        said = connection.execute("pragma quick_check(1)").fetchone()
        if said != ("ok",):
            self.problems.append(Problem("container", f"SQLite finds damage: {str(said[0])[:200]}"))

    def payload(self, chunk: int, offset: int, size: int) -> bytes:
        try:
            with closing(_connect(self.path)) as connection:
                row = connection.execute("select data from messages where id = ?", (chunk,)).fetchone()
        except DAMAGE as error:
            raise Unreadable(self.name, f"SQLite cannot read row {chunk}: {error}") from error
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != size:
            raise Unreadable(self.name, f"row {chunk} should have {size} bytes")
        return row[0]
