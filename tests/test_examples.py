"""The scripts in examples/, as they are, on real data."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from support.commands import ROOT, fame, real_mnist, save_model

from famecli.checkpoints.index import weights_folder
from famecli.data.dataset import load_split

# tests/test_api_docs.py runs the notebook.
SCRIPTS = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix not in (".ipynb", ".sbatch"))
NUMBER = r"\d+\.\d+"
# What each prints, from the first character to the last.
PRINTED = {
    "compare-runs.sh": r"fame\t0\.1\d+\nuntrained\t1\.\d+\n",
    "numpy-npz.sh": rf"uint8 \(16, 28, 28, 1\) {NUMBER}\n",
    "png-folder.sh": r"16\n0\.1\d+\n",
    "queue-job.sh": r"(.*/run/)best\.safetensors\n\1best\.safetensors\n",
    "reconstruct-files.sh": rf"(.*/photos/[0-3]/digit\.png\t{NUMBER}\n){{4}}",
    "score-samples.sh": r"[1-9]\.\d+\n",
    "surprising-images.sh": rf"(\d+,[0-9a-f]{{8}},0\.\d+(,{NUMBER}){{4}}\n){{5}}",
    "train-then-gate.sh": r"0\.9[34]\d+\n",
}


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that knows nothing, as a critic and as a run beside the weights of the package; real digits."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("fame", "untrained"):
        (folder / "runs" / name).mkdir(parents=True)
    critic = save_model(folder / "runs" / "untrained" / "best.safetensors", "vae")
    shutil.copy(weights_folder() / "fame-mnist.safetensors", folder / "runs" / "fame" / "best.safetensors")
    digits = load_split("mnist", "test", data=real_mnist()).pixels
    for index in range(4):
        (folder / "photos" / str(index)).mkdir(parents=True)
        Image.fromarray(digits[index, 0]).save(folder / "photos" / str(index) / "digit.png")
    return {"CRITIC": critic, "RUNS": folder / "runs", "PHOTOS": folder / "photos"}


def run(script: Path, **variables: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script with the real data, and with the command of this interpreter's environment."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FAME_")}
    own = {
        "PATH": os.pathsep.join(folders),
        "FAME_DATA": real_mnist(),
        "FAME_OFFLINE": "1",
        "FAME_THREADS": "1",
    }
    environment = kept | {name: str(value) for name, value in (own | variables).items()}
    return subprocess.run([script], env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_file_is_a_script_that_can_be_run(script: Path) -> None:
    assert script.suffix == ".sh"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    assert script.name in PRINTED


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_it_prints_what_it_says(script: Path, variables: dict[str, Path], tmp_path: Path) -> None:
    done = run(script, TMPDIR=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[script.name], done.stdout), done.stdout
    assert "Traceback" not in done.stderr
    # torch makes a folder of its own there.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []


@pytest.mark.slow
def test_the_gate_closes(tmp_path: Path) -> None:
    report = tmp_path / "nll.json"
    done = run(ROOT / "examples" / "train-then-gate.sh", LIMIT="0.1", REPORT=report)
    assert (done.returncode, done.stdout) == (7, "")
    assert "bits_per_dim" in report.read_text()


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (3, False), (6, False)])
def test_a_job_goes_back_in_the_queue_if_it_was_stopped_in_time(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    scripts = {"srun": f'printf "%s\\n" "$@" > srun.txt; exit {code}', "scontrol": 'echo "$@" > queue.txt'}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [ROOT / "examples" / "train.sbatch"],
        env={
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "17",
            "SLURM_CPUS_PER_TASK": "8",
            "RUN": "here",
        },
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == (0 if requeued else code)
    queue = tmp_path / "queue.txt"
    assert (queue.read_text() if queue.exists() else "") == ("requeue 17\n" if requeued else "")
    words = (tmp_path / "srun.txt").read_text().split("\n")[:-1]
    assert words[:3] == ["--cpus-per-task=8", "fame", "train"]
    assert words[words.index("--threads") + 1] == "8"
    # Every word is one that the command takes.
    printed = fame(*words[2:], "--print-config")
    assert (printed.code, printed.text[:7]) == (0, "[model]"), printed.err
