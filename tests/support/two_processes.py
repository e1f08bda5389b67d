"""Script of each process under torchrun for test_distributed.py: trainings, then commands.

    torchrun --nproc-per-node 2 two_processes.py PLAN.json

The plan has `trainings` (arguments of `trainer_of`), `commands` and `out`, a folder for the results of each
process. A command has the words after `fame`, the step and rank at which to send itself SIGTERM, the duration
of a save, and the file to look for at the end.
"""

import atexit
import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from famecli.checkpoints.checkpoint import hash_weights, save_tensors
from famecli.cli.app import main
from famecli.config.schema import TrainConfig
from famecli.runtime.distributed import Group, join
from famecli.training.run import Run
from famecli.training.trainer import StepRecord, Trainer
from support.trainers import ATTENTION, Gradients, trainer_of

STEPS = 4
SCHEMA = "test/1"


def training(group: Group, out: Path, name: str, what: dict[str, Any]) -> dict[str, Any]:
    """Train some steps and return records and a hash; the first process saves gradient and state."""
    config = TrainConfig.from_dict(what["config"])
    with Gradients() as gradients:
        decoder = ATTENTION if what["attention"] else None
        trainer = trainer_of(
            "fame", config, what["precision"], what["accumulate"], group=group, decoder=decoder
        )
        records = [dataclasses.asdict(trainer.step()) for _ in range(STEPS)]
    state = trainer.state_tensors()
    if group.is_main:
        save_tensors(out / f"{name}.state", state, {"schema": SCHEMA})
        save_tensors(out / f"{name}.gradient", gradients.first, {"schema": SCHEMA})
    return {"records": records, "hash": hash_weights({key: value.float() for key, value in state.items()})}


def command(group: Group, what: dict[str, Any]) -> dict[str, Any]:
    """Run a command; if the plan says so, end it by SIGTERM after a step of this process."""
    whole_step = Trainer.step

    def step(trainer: Trainer) -> StepRecord:
        record = whole_step(trainer)
        if what.get("kill") == [group.rank, record.step]:
            os.kill(os.getpid(), signal.SIGTERM)
        return record

    save = Run.save

    def late(run: Run) -> None:
        time.sleep(what.get("save_takes_s", 0))
        save(run)

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(Run, "save", late if group.is_main else save),
        mock.patch.object(sys, "argv", ["fame", *what["words"]]),
        mock.patch.object(Trainer, "step", step),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    saved = "saved" in what and Path(what["saved"]).exists()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue(), "saved": saved}


def tell_threads(out: Path) -> None:
    """Write the names of the threads of this process, if the system provides them."""
    names = [(each / "comm").read_text().strip() for each in Path("/proc/self/task").glob("*")]
    (out / f"{os.environ['RANK']}.threads").write_text(json.dumps(names))


if __name__ == "__main__":
    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(plan["out"])
    # Exit handlers run in reverse order: registered before `join`, this runs after those of `join`.
    atexit.register(tell_threads, folder)
    own = join()
    found = {name: training(own, folder, name, what) for name, what in plan["trainings"].items()}
    found |= {name: command(own, what) for name, what in plan["commands"].items()}
    (folder / f"{own.rank}.json").write_text(json.dumps(found))
