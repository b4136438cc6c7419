"""`python -m transforms.rules`: the table of docs/rules.md, made from the rules themselves, to standard output."""

from __future__ import annotations

import importlib
import sys

from transforms.rules import DRIVE_RULES, FILE_RULES, PROFILE_RULES

HEAD = """# Rules

What is checked of each drive before anything of it is taken. An error refuses the whole drive: it lands in quarantine with the
rule's id and the evidence, and nothing else of it is written. A warning goes into the report of the ingest. "Inferred" rules
conclude from circumstances; the others say what stands in the file. `profile` rules count where the lake has a profile of the
vehicle (docs/recordings.md). This table is what `python -m transforms.rules` prints.

| rule | severity | of a | seen or inferred | what is wrong |
|---|---|---|---|---|
"""


def table() -> str:
    """The first part of the page, from the register and the first line of each rule's module."""
    rows = []
    for scope, register in (("file", FILE_RULES), ("drive", DRIVE_RULES), ("profile", PROFILE_RULES)):
        for rule in register:
            module = importlib.import_module(f"transforms.rules.{rule.id.replace('-', '_')}")
            said = " ".join((module.__doc__ or "").partition(": ")[2].split())
            how = "inferred" if rule.inferred else "seen"
            rows.append(f"| `{rule.id}` | {rule.severity} | {scope} | {how} | {said} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(table())
