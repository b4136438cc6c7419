"""`outlap bench dags`: how long Airflow's DAG processor takes to read each file of dags/, and what reading imports.

One process a file, as the DAG processor has it, with the plugins folder. What Airflow itself takes to start is not counted: the file is
read twice, and the first time is told apart (imports) from the second (the file's own work, each time it is read).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Report, machine, row
from lake.errors import Explained

ROOT = Path(__file__).resolve().parents[1]
# what a DAG file may not import: seconds at each read, in every process
HEAVY = (
    "obstore",
    "duckdb",
    "av",
    "pyarrow",
    "kubernetes",
    "boto3",
    "numpy",
    "pandas",
    "PIL",
    "simplejpeg",
    "torch",
)
READ = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
DagBag("/nonexistent", collect_dags=False)
taken = []
for _ in range(2):
    started = time.perf_counter()
    bag = DagBag(sys.argv[1])
    taken.append(time.perf_counter() - started)
heavy = sorted(name for name in sys.argv[2].split(",") if name in sys.modules)
print("READ" + json.dumps({"taken": taken, "dags": sorted(bag.dags), "errors": bag.import_errors, "heavy": heavy}))
"""


def read(file: Path, home: Path, variables: dict[str, str] | None = None) -> dict[str, Any]:
    """taken: seconds of the first and the second time, dags, errors, heavy: modules of HEAVY that are there afterwards."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "OUTLAP_AIRFLOW"))
    }
    environment = {
        **kept,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        **(variables or {}),
    }
    command = [sys.executable, "-c", READ, str(file), ",".join(HEAVY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "READ" not in done.stdout:
        raise Explained(f"reading {file}", done.stderr[-600:], "see the DAG file")
    return dict(json.loads(done.stdout.rsplit("READ", 1)[1]))


def run(quick: bool) -> Report:
    """quick: one file."""
    files = sorted((ROOT / "dags").glob("*.py"))[: 1 if quick else None]
    made, heavy = [], set[str]()
    with tempfile.TemporaryDirectory() as home:
        for file in files:
            found = read(file, Path(home))
            if found["errors"]:
                raise Explained(f"reading {file.name}", str(found["errors"]), "see the DAG file")
            first, again = found["taken"]
            heavy |= set(found["heavy"])
            made.append(row(f"{file.name}: first, with what it imports", first, "s"))
            made.append(row(f"{file.name}: again", again, "s", goal="<= 1"))
    made.append(row("heavy modules imported by reading", len(heavy), "modules", goal="<= 0"))
    notes = (f"Heavy are: {', '.join(HEAVY)}. Found: {', '.join(sorted(heavy)) or 'none'}.",)
    return Report("DAG files", machine(), tuple(made), notes)
