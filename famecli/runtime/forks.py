"""Work on the CPU divided among forked processes, each with one thread.

The sampler takes thousands of small steps, and threads wait for each other in each of them. Processes do not.
Forked ones share the weights with this process, and write their results into memory of it, so that nothing
is started or sent. Each result is that of a single thread, whatever their number.
"""

import contextlib
import functools
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from famecli.errors import UsageError

# 0 keeps all work in this process.
VARIABLE = "FAME_FORKS"
# MADV_WIPEONFORK of Linux 4.14, which Python's mmap does not name.
WIPE_ON_FORK = 18


def processes_on(device: torch.device) -> int:
    """Return the number of processes that may share work on a device: as many as torch has threads.

    It is 1 where a fork is not safe: on other systems than Linux, and beside GPUs or processes of torchrun.

    Raises:
        UsageError: `FAME_FORKS` is neither 0 nor 1.
    """
    unsafe = (
        device.type != "cpu" or torch.cuda.is_initialized() or (dist.is_available() and dist.is_initialized())
    )
    if (asked := os.environ.get(VARIABLE) or "1") not in ("0", "1"):
        raise UsageError(f"unknown {VARIABLE} {asked!r}", "0 keeps all work in one process, 1 does not")
    if unsafe or sys.platform != "linux" or asked == "0":
        return 1
    return torch.get_num_threads()


def fill(rows: Tensor, parts: Sequence[slice], work: Callable[[slice], Tensor]) -> None:
    """Set each part of `rows` to the result of `work`, each in a process of its own.

    A part whose process fails or cannot start, for example for lack of memory, is computed in this process.

    Args:
        rows: Tensor from `shared`.
        parts: Disjoint slices of its rows; the last one is computed in this process.
        work: Function of a slice, in inference without gradients.

    Raises:
        Exception: The exception of `work` in this process.
    """
    children: list[int] = []
    threads, done = torch.get_num_threads(), shared((len(parts),), torch.uint8)

    def compute(index: int) -> None:
        rows[parts[index]] = work(parts[index])
        done[index] = 1

    try:
        for index in range(len(parts) - 1):
            # Without room for another process, the rest is left to this one.
            with contextlib.suppress(OSError), _signals_wait():
                children.append(_fork(functools.partial(compute, index)))
        torch.set_num_threads(1)
        compute(len(parts) - 1)
        while children:
            # Where SIGCHLD is ignored, or another thread waits, too, there is no status.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(children[-1], 0)
            children.pop()
        for index in range(len(parts)):
            if not done[index]:
                compute(index)
    finally:
        torch.set_num_threads(threads)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Let signals wait in this thread: a forked process must not run the handlers of its parent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fork(compute: Callable[[], None]) -> int:
    """Start a process that computes, with its signals blocked; return its identifier."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of other threads. The child only runs torch, on one thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        # The threads of the parent's pool do not exist here.
        torch.set_num_threads(1)
        compute()
        status = 0
    finally:
        # Nothing of the parent is flushed, closed or reported twice.
        os._exit(status)


def shared(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return zeros in memory that forked processes share.

    Raises:
        MemoryError: There is too little memory.
    """
    return _mapped(shape, dtype, mmap.MAP_SHARED, ())


def wiped_on_fork(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return zeros of the dtype and device of `like`, in memory that a fork need not copy.

    Ordinary memory is copied page by page when a process writes to it after a fork. Here a forked process
    finds zeros, or the old content on a system that cannot wipe it: rely on neither. Large pages are used
    where the system has them.

    Raises:
        MemoryError: There is too little memory.
    """
    if like.device.type != "cpu" or sys.platform != "linux":
        return like.new_zeros(shape)
    return _mapped(shape, like.dtype, mmap.MAP_PRIVATE, (WIPE_ON_FORK, mmap.MADV_HUGEPAGE))


def _mapped(shape: Sequence[int], dtype: torch.dtype, kind: int, advice: Sequence[int]) -> Tensor:
    """Return zeros in newly mapped memory; advice that the system does not know is left out."""
    size = torch.Size(shape).numel()
    if not size:
        return torch.zeros(*shape, dtype=dtype)
    try:
        memory = mmap.mmap(-1, size * dtype.itemsize, flags=kind | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"out of memory: {error}") from error
    for each in advice:
        with contextlib.suppress(OSError):
            memory.madvise(each)
    return torch.frombuffer(memory, dtype=dtype, count=size).view(*shape)
