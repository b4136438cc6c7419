"""The images: what they copy exists, what they install covers every import, what they start is there."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "deploy" / "images"
NAMES = ("control", "agent", "airflow")
OURS = {
    "lake": ROOT,
    "transforms": ROOT,
    "cacheengine": ROOT,
    "outlap_airflow": ROOT / "plugins",
}
STARTS = {
    "control": ["cacheengine.control.__main__"],
    "agent": ["cacheengine.agent.__main__", "cacheengine.ondemand.fetchfs", "cacheengine.views.tree"],
}


def containerfile(name: str) -> str:
    return (IMAGES / name / "Containerfile").read_text()


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", containerfile(name))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def module_file(module: str) -> Path | None:
    base = OURS[module.split(".")[0]] / module.replace(".", "/")
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, `from a import b` both as a and as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def third_parties(files: list[Path]) -> set[str]:
    """Top-level modules that are not ours, of these files and of all that they import of ours."""
    seen: set[Path] = set()
    foreign: set[str] = set()
    while files:
        path = files.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(path):
            top = name.split(".")[0]
            if top not in OURS:
                foreign.add(top)
                continue
            parts = name.split(".")
            for length in range(1, len(parts) + 1):  # a package's __init__ runs too
                file = module_file(".".join(parts[:length]))
                if file is not None:
                    files.append(file)
    return foreign - sys.stdlib_module_names


def requirements(name: str) -> list[Requirement]:
    lines = (IMAGES / name / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def closure(name: str) -> set[str]:
    """Everything that the requirements bring, as installed here (extras left out)."""
    found: set[str] = set()
    waiting = [canonicalize_name(r.name) for r in requirements(name)]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        try:
            needed = importlib.metadata.requires(one) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # a driver that only the image has
        for text in needed:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def starts(name: str) -> list[Path]:
    if name != "airflow":
        files = [module_file(module) for module in STARTS[name]]
        assert None not in files
        return [file for file in files if file is not None]
    package = (ROOT / "plugins" / "outlap_airflow").rglob("*.py")
    return [*(ROOT / "dags").rglob("*.py"), ROOT / "plugins" / "outlap_plugin.py", *package]


OPTIONAL = {"openlineage"}  # outlap_airflow/openlineage.py asks for it only where its provider is installed


@pytest.mark.parametrize("name", NAMES)
def test_the_image_has_every_package_that_its_code_imports(name: str) -> None:
    distributions = importlib.metadata.packages_distributions()
    brought = closure(name)
    for module in third_parties(starts(name)) - OPTIONAL:
        candidates = {canonicalize_name(found) for found in distributions.get(module, [])}
        assert candidates & brought, f"{module} ({candidates or 'not installed'}) is in no requirement"


@pytest.mark.parametrize("name", NAMES)
def test_versions_are_those_that_were_tested(name: str) -> None:
    frozen = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            frozen[canonicalize_name(requirement.name)] = requirement.specifier
    for requirement in requirements(name):
        exact = any(one.operator == "==" for one in requirement.specifier)
        assert exact or canonicalize_name(requirement.name) in frozen
        if exact and canonicalize_name(requirement.name) in frozen:
            assert requirement.specifier == frozen[canonicalize_name(requirement.name)]
    installs = [text for kind, text in instructions(name) if kind == "RUN" and "pip install" in text]
    assert installs
    for text in installs:
        assert "--constraint constraints.txt" in text or "--no-deps" in text


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_exists_and_the_packages_are_all_there(name: str) -> None:
    copied: set[str] = set()
    for kind, text in instructions(name):
        if kind != "COPY" or "--from=" in text:
            continue
        *sources, _ = [word for word in text.split() if not word.startswith("--")]
        copied |= set(sources)
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    if name == "airflow":
        assert {"dags", "plugins/outlap_plugin.py"} <= copied


@pytest.mark.parametrize("name", NAMES)
def test_the_base_has_the_right_python_and_the_user_is_not_root_where_possible(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for base in [text.split()[0] for kind, text in instructions(name) if kind == "FROM"]:
        found = re.search(r"python(?::|)(3\.\d+)", base)
        assert found and found[1] in SpecifierSet(project["requires-python"])
    *_, user = [text for kind, text in instructions(name) if kind == "USER"]
    assert user.startswith("0") is (name == "agent")


def test_the_processes_start_as_the_code_has_them_and_airflow_is_the_tested_one() -> None:
    for name, module in (("control", "cacheengine.control"), ("agent", "cacheengine.agent")):
        (entry,) = [json.loads(text) for kind, text in instructions(name) if kind == "ENTRYPOINT"]
        assert entry == ["python", "-m", module] and module_file(f"{module}.__main__")
    version = importlib.metadata.version("apache-airflow")
    values = yaml.safe_load((ROOT / "deploy" / "airflow" / "values.yaml").read_text())
    assert str(values["airflowVersion"]) == version
    assert ("FROM", f"apache/airflow:{version}-python3.11") in instructions("airflow")
    assert not [kind for kind, _ in instructions("airflow") if kind in ("ENTRYPOINT", "CMD")]


def test_images_have_the_names_that_manifests_use() -> None:
    manifests = "".join(path.read_text() for path in (ROOT / "deploy").rglob("*.yaml"))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name in NAMES:
        assert f"-t outlap-{name}:{version} ." in containerfile(name)
        assert f"outlap-{name}:{version}" in manifests


def test_airflow_settings_exist(tmp_path: Path) -> None:
    """In a process of its own: Airflow writes its configuration where it is imported."""
    code = (
        "import json; from airflow.configuration import retrieve_configuration_description as r; "
        "d = r(); print(json.dumps({s: list(v['options']) for s, v in d.items()}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    known = json.loads(run.stdout.splitlines()[-1])
    config = yaml.safe_load((ROOT / "deploy" / "airflow" / "values.yaml").read_text())["config"]
    for section, options in config.items():
        assert set(options) <= set(known.get(section, ())), section
