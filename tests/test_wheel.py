"""What a wheel holds: templates, the index, and the weights that it says are in the package."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.commands import ROOT

from famecli.checkpoints.index import INDEX, index

HATCHLING = importlib.util.find_spec("hatchling") is not None


def test_the_folder_of_weights_holds_nothing_that_should_not_be_shipped() -> None:
    files = [Path(entry.file) for entry in index().values()]
    known = {INDEX, "make_index.py", *(file.name for file in files), *(f"{file.stem}.md" for file in files)}
    found = {path.name for path in (ROOT / "weights").iterdir() if path.name != "__pycache__"}
    assert found <= known


@pytest.mark.skipif(not HATCHLING, reason="no wheel is built: hatchling is not installed")
def test_a_wheel_holds_templates_index_and_weights(tmp_path: Path) -> None:
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", "pip", *words, tmp_path, ROOT], check=True, timeout=300)
    (path,) = tmp_path.glob("famecli-*.whl")
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
