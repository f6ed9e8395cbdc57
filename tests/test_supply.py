"""What graft is made of: floors that close known holes, a list of all its parts, and an audit."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
# the lowest versions in which the holes that are known of each are closed; CVE-2025-32434 (torch)
# and later ones
FLOORS = {
    "torch": "2.10",
    "mlflow": "3.11",
    "prefect": "3.7",
    "pillow": "12.3",
    "starlette": "1.2",
    "python-multipart": "0.0.27",
}


def ci(name: str, *words: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run a script of .ci/ from ``folder``, in the environment of these tests."""
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    here = {
        **os.environ,
        "UV_NO_SYNC": "1",
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
    }
    return subprocess.run(
        [REPOSITORY / ".ci" / name, *words],
        env=here,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_installed_and_all_that_may_be_is_above_the_floor(name: str):
    assert Version(version(name)) >= Version(FLOORS[name])
    declared = [Requirement(line) for line in requires("graft") or ()]
    named = [one for one in declared if canonicalize_name(one.name) == name]
    (asked,) = [one for one in named if one.marker is None]  # for everybody, with no extra
    lowest = [each.version for each in asked.specifier if each.operator == ">="]
    assert lowest
    assert max(map(Version, lowest)) >= Version(FLOORS[name])


def test_the_list_of_parts_is_cyclonedx_and_names_all_that_is_installed(tmp_path: Path):
    file = tmp_path / "sbom.json"
    # its schema takes 16 s, so that only who asks for the file waits for it
    done = ci("sbom", file.name, "--no-validate", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = json.loads(file.read_text())
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
    assert listed["metadata"]["component"]["name"] == "graft"
    parts = listed["components"]
    found = {(canonicalize_name(part["name"]), part["version"]) for part in parts}
    installed = {(canonicalize_name(d.metadata["Name"]), d.version) for d in distributions()}
    assert {one for one in installed if one[0] != "graft"} <= found
    references = [part["bom-ref"] for part in parts] + [listed["metadata"]["component"]["bom-ref"]]
    assert len(set(references)) == len(references)
    for entry in listed["dependencies"]:
        assert {entry["ref"], *entry.get("dependsOn", ())} <= set(references)
    assert str(REPOSITORY) not in file.read_text()


def test_the_audit_would_ask_about_all_that_is_installed():
    done = ci("audit", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would have audited" in done.stderr
    number = int(done.stderr.partition("would have audited ")[2].split()[0])
    # graft itself is in no database
    assert number == len({canonicalize_name(d.metadata["Name"]) for d in distributions()}) - 1


@pytest.mark.network
def test_the_audit_finds_nothing_in_the_six_and_a_hole_where_there_is_one(tmp_path: Path):
    """Seven look-ups; the whole environment is the job of who runs .ci/audit."""
    alone = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--requirement"]
    lines = {
        "now": [f"{name}=={version(name).partition('+')[0]}" for name in FLOORS],
        "old": ["pillow==9.0.0"],
    }
    said = {}
    for when, listed in lines.items():
        (tmp_path / f"{when}.txt").write_text("\n".join(listed))
        command = [Path(sys.executable).with_name("pip-audit"), *alone, tmp_path / f"{when}.txt"]
        said[when] = subprocess.run(command, capture_output=True, text=True)
    assert said["now"].returncode == 0, said["now"].stdout + said["now"].stderr
    assert said["old"].returncode == 1
    assert "CVE-2022-22817" in said["old"].stdout  # PIL.ImageMath ran any expression
