"""What a run's folder says of how the run was started."""

import json
import sys

import torch

from famecli.config.resolve import to_toml
from famecli.errors import InputError
from famecli.files import write_atomic
from famecli.runtime.environment import environment
from famecli.training.run import Run


def describe_run(run: Run) -> None:
    """Make the folder of a run, and write `config.toml` and `env.json` there.

    Raises:
        InputError: The folder cannot be made.
    """
    folder, trainer = run.folder, run.trainer
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}", "choose another --out") from error
    machine = {"device": str(trainer.device), "threads": torch.get_num_threads(), "command": sys.argv}
    about = environment() | machine | {"processes": trainer.group.size}
    write_atomic(folder / "env.json", (json.dumps(about, indent=2) + "\n").encode())
    write_atomic(folder / "config.toml", to_toml(trainer.model.config, trainer.config).encode())
