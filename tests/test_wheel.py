"""What is published: a wheel with templates, index and weights, a source archive, and their metadata."""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.commands import ROOT

from famecli.checkpoints.index import INDEX, index

BUILDS = importlib.util.find_spec("hatchling") and importlib.util.find_spec("twine")
needs_tools = pytest.mark.skipif(not BUILDS, reason="nothing is built: hatchling or twine is missing")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the source archive."""
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", folder]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return folder


@needs_tools
def test_the_package_index_accepts_both(built: Path) -> None:
    assert sorted(path.suffix for path in built.iterdir()) == [".gz", ".whl"]
    words = [sys.executable, "-m", "twine", "check", "--strict", *built.iterdir()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


@needs_tools
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no repository: its list of files is unknown")
def test_the_source_archive_has_all_that_its_tests_need(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    expected = {name for name in tracked.stdout.splitlines() if not name.startswith("docs/images/")}
    assert expected <= inside


def test_the_folder_of_weights_holds_nothing_that_should_not_be_shipped() -> None:
    files = [Path(entry.file) for entry in index().values()]
    known = {INDEX, "make_index.py", *(file.name for file in files), *(f"{file.stem}.md" for file in files)}
    found = {path.name for path in (ROOT / "weights").iterdir() if path.name != "__pycache__"}
    assert found <= known


@needs_tools
def test_a_wheel_holds_templates_index_and_weights(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("famecli-*.whl")
    with zipfile.ZipFile(path) as wheel:
        inside = {name for name in wheel.namelist() if name.startswith("famecli/weights/")}
        expected = {path.name for path in (ROOT / "weights").iterdir() if path.suffix != ".py"}
        assert inside == {f"famecli/weights/{name}" for name in expected - {"__pycache__"}}
        templates = (ROOT / "famecli" / "report" / "templates").iterdir()
        assert {f"famecli/report/templates/{path.name}" for path in templates} <= set(wheel.namelist())
        for name in inside:
            assert wheel.read(name) == (ROOT / "weights" / Path(name).name).read_bytes()
        wheel.extractall(tmp_path / "site")
    program = (
        "from famecli.checkpoints.index import default_weights, weights_folder;"
        "print(weights_folder() / default_weights(None, None).file)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "site", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "site" / "famecli" / "weights" / "fame-mnist.safetensors")
