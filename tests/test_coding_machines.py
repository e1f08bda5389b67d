"""Codes that one machine writes and another one reads: other instruction sets, other numbers of threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import fame, save_model

# Several commands in one process.
COMMANDS = (
    "import json, sys; from famecli.cli.app import main\n"
    "for sys.argv in json.load(sys.stdin):\n"
    "  try: main()\n"
    "  except SystemExit as stop:\n"
    "    if stop.code: raise"
)
# As it were, processors of other kinds, with other numbers of threads, which do not wait busily.
MACHINES = {
    "plain": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "2"}
    | {"OMP_WAIT_POLICY": "passive"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
}


def test_codes_of_other_processors_and_threads_come_back(
    tmp_path: Path, threads_put_back: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each machine reads what was written here and by the machines before it; here all passes a pipe."""
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    source = np.random.default_rng(0)
    images = {
        "bits": 255 * source.integers(0, 2, (4, 8, 8, 1), np.uint8),
        "colours": source.integers(0, 256, (4, 4, 4, 3), np.uint8),
    }
    for kind, each in images.items():
        shape = each.shape[3], *each.shape[1:3]
        save_model(tmp_path / f"{kind}.safetensors", "fame", shape, 2 if kind == "bits" else 256)
        np.save(f"{kind}.npy", each)
        done = fame("compress", f"{kind}.safetensors", f"{kind}.npy", "-o", "-")
        Path(f"here-{kind}.fame").write_bytes(done.out)
    for machine, settings in MACHINES.items():
        read = [
            ("decompress", path.name, "--checkpoint", f"{path.stem.split('-')[1]}.safetensors")
            for path in tmp_path.glob("*.fame")
        ]
        commands = [
            *(("fame", *words, "-o", f"{machine}-{words[1]}.npy") for words in read),
            *(
                ("fame", "compress", f"{kind}.safetensors", f"{kind}.npy", "-o", f"{machine}-{kind}.fame")
                for kind in images
            ),
        ]
        ended = subprocess.run(
            [sys.executable, "-c", COMMANDS],
            input=json.dumps(commands).encode(),
            env=os.environ | {"FAME_DEVICE": "cpu"} | settings,
            capture_output=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr.decode()
    for path in tmp_path.glob("*.fame"):
        kind = path.stem.split("-")[1]
        out = f"here-{path.name}.npy"
        done = fame(
            "decompress", "-", "--checkpoint", f"{kind}.safetensors", "-o", out, stdin=path.read_bytes()
        )
        assert done.code == 0, done.err
    found = list(tmp_path.glob("*.fame.npy"))
    assert len(found) == 2 * (3 + 1 + 2)
    for path in found:
        np.testing.assert_array_equal(
            np.load(path), images[path.name.split("-")[2].removesuffix(".fame.npy")]
        )
