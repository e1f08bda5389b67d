"""Commands in killable processes: one process imports everything, and forks for each command.

The parent computes nothing before it forks, so no child inherits threads.
"""

import contextlib
import gc
import io
import json
import os
import resource
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import no_pickle

# Exit code of a command that unpickled something.
UNPICKLED = 99
TESTS = Path(__file__).parents[1]
NONE: Mapping[str, str] = {}


class Victims:
    """The process that forks; each command is `fame` with a small data set in place of MNIST.

    Args:
        folder: Folder of the data and of the commands' streams.
        variables: More environment variables.

    Attributes:
        errors: File with the stderr of the last command.
        peak_kib: Peak memory of the last command, KiB.
    """

    peak_kib = 0

    def __init__(self, folder: Path, variables: Mapping[str, str] = NONE) -> None:
        self.errors = folder / "stderr"
        data = folder / "victims' data"
        data.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FAME_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.victims", data, self.errors],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=kept
            | {
                "OMP_NUM_THREADS": "1",
                "FAME_DEVICE": "cpu",
                "PYTHONUNBUFFERED": "",
                "PYTHONPATH": str(TESTS),
            }
            | dict(variables),
            text=True,
        )

    def start(
        self,
        *words: object,
        at: tuple[int, int] | None = None,
        largest_file: int | None = None,
        stdout: str | Path = os.devnull,
    ) -> int:
        """Start `fame` with `words` and return its process ID.

        Args:
            words: Arguments of `fame`.
            at: A training step, and the signal that the process sends itself after it.
            largest_file: Maximum size of a written file, bytes.
            stdout: Destination of stdout.
        """
        assert self.process.stdin is not None
        asked = {"words": [*map(str, words)], "at": at, "limit": largest_file, "stdout": str(stdout)}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._numbers()[0]

    def end(self) -> int:
        """Wait for the command and return its exit code, negative for a signal."""
        code, self.peak_kib = self._numbers()
        return code

    def run(self, *words: object, **options: Any) -> int:
        """Run `fame` to its end and return its exit code; see `start` and `end`."""
        self.start(*words, **options)
        return self.end()

    def _numbers(self) -> list[int]:
        assert self.process.stdout is not None
        return [int(word) for word in self.process.stdout.readline().split()]


@contextmanager
def victims(folder: Path, variables: Mapping[str, str] = NONE) -> Iterator[Victims]:
    """Yield a running process that forks."""
    found = Victims(folder, variables)
    try:
        yield found
    finally:
        found.process.communicate()


def _run_and_exit(main: Callable[[], None]) -> None:
    """End the process with the code of `main`, skipping the second that torch's teardown takes."""
    code = 1
    try:
        main()
    except SystemExit as stop:
        code = UNPICKLED if no_pickle.noted else int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    try:
        sys.stdout.flush()
    except OSError:
        # Python exits with this code when it cannot flush stdout.
        code = 120
    sys.stderr.flush()
    os._exit(code)


def _serve(data: Path, errors: Path) -> None:
    import torch

    # Modules that commands import late; the first optimizer imports the last one.
    import torch._dynamo

    from famecli.cli.app import main
    from famecli.data.registry import DATASETS
    from support.data import small_mnist
    from support.trainers import kill_after

    no_pickle.watch()
    torch.set_num_threads(1)
    DATASETS["mnist"] = small_mnist(data)
    os.environ["FAME_DATA"] = str(data)
    sys.argv = ["fame", "train", "--print-config"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main()
    # A garbage collection would touch, and so copy, every page in the forks.
    gc.freeze()
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for target, path in ((1, asked["stdout"]), (2, errors)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
            if asked["limit"] is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], resource.RLIM_INFINITY))
            sys.argv = ["fame", *asked["words"]]
            if asked["at"] is not None:
                kill_after(pytest.MonkeyPatch(), *asked["at"])
            _run_and_exit(main)
        print(child, flush=True)
        _, status, usage = os.wait4(child, 0)
        print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, flush=True)
    os._exit(0)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
