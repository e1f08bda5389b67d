"""The processes that share one command's work, as torchrun starts them.

torchrun sets the rank and the number of processes in environment variables. Work is divided into the same
pieces as in a single process, so that results do not depend on the number of processes. Only the first
process prints and writes.
"""

import atexit
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

# Imported before any group exists: DDP imports it, and its default arguments would keep an existing group
# until Python exits. Threads of that group would then release tensors, which aborts the process.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from famecli.errors import UnavailableError, UsageError
from famecli.runtime.memory import AdaptiveBatches

T = TypeVar("T")
POLL_S = 0.02
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """This process among the processes of a command.

    Args:
        rank: Rank of this process, from 0.
        size: Number of processes.
        local_rank: Rank of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def restarts(self) -> bool:
        """Whether torchrun restarts all processes when one fails."""
        return self.size > 1 and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"

    def device(self, name: str) -> str:
        """Return the device of this process: a GPU of its own for `cuda`, and for `auto` if there are GPUs.

        Args:
            name: Device as the user named it.

        Raises:
            UsageError: `name` is one GPU for several processes.
        """
        if self.size == 1 or name not in ("auto", "cuda"):
            if self.size > 1 and name.startswith("cuda:"):
                raise UsageError(f"{self.size} processes cannot share {name}", "choose `device=cuda`")
            return name
        if name == "auto" and not torch.cuda.is_available():
            return name
        return f"cuda:{self.local_rank}"

    def local_rows(self, batch: int) -> slice:
        """Return this process's rows of a batch; all processes have equally many.

        Raises:
            UsageError: The number of processes does not divide the batch.
        """
        if batch % self.size:
            raise UsageError(
                f"a batch of {batch} images cannot be divided among {self.size} processes",
                f"choose `batch_size={-(-batch // self.size) * self.size}`, or another number of processes",
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, bitwise equal in each."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def all_reduce_max(self, value: int) -> int:
        """Return the largest `value` among all processes."""
        found = torch.tensor(value)
        if self.size > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def all(self, value: bool) -> bool:
        """Return whether `value` is true in all processes."""
        return self.all_reduce_max(-int(value)) != 0

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of all processes, by rank; they may differ in their first dimension."""
        if self.size == 1:
            return [array]
        lengths = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor(len(array)))
        padded = np.zeros((int(max(lengths)), *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        found = [torch.from_numpy(np.empty_like(padded)) for _ in range(self.size)]
        dist.all_gather(found, torch.from_numpy(padded))
        return [each.numpy()[: int(length)] for each, length in zip(found, lengths, strict=True)]

    def map_ordered(self, tasks: Sequence[T], work: Callable[[T], np.ndarray]) -> Iterator[np.ndarray]:
        """Yield `work` of each task in order, in every process; the processes share the tasks.

        Args:
            tasks: Tasks, the same in all processes.
            work: Function from a task to an array, whose shape may vary in the first dimension only.
        """
        for start in range(0, len(tasks), self.size):
            # In the last round idle processes repeat the last task, so that all have an array to send.
            own = work(tasks[min(start + self.rank, len(tasks) - 1)])
            yield from self.gather(own)[: len(tasks) - start]

    def map_batches(
        self, images: int, size: int, work: Callable[[slice], np.ndarray], pieces: AdaptiveBatches
    ) -> Iterator[np.ndarray]:
        """Yield arrays with a row per image, batch by batch in order, as `map_ordered` does.

        Args:
            images: Number of images.
            size: Number of images in a batch.
            work: Function from a slice of images to their rows; must not depend on the split.
            pieces: Splitter of a batch when memory runs out.
        """

        def batch(first: int) -> np.ndarray:
            return np.concatenate(list(pieces.map(range(first, min(first + size, images)), work)))

        return self.map_ordered(range(0, images, size), batch)

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Run the block in the first process of each machine, then in the others, which find its files."""
        if self.local_rank:
            self.all_reduce_max(0)
        yield
        if not self.local_rank:
            self.all_reduce_max(0)

    def parallel(self, model: nn.Module, *, some_unused: bool = False) -> nn.Module:
        """Return `model`; with several processes, wrapped to average gradients over them.

        Args:
            model: Model in training.
            some_unused: Whether some steps do not use all weights.
        """
        if self.size == 1:
            return model
        wrapper = DistributedDataParallel(model, find_unused_parameters=some_unused)
        # Buffers are masks, which never change. New versions of torch deprecate the argument of this name.
        wrapper.broadcast_buffers = False
        return wrapper


ALONE = Group()


def join() -> Group:
    """Return the connected group of torchrun's environment variables; `ALONE` without them.

    Raises:
        UsageError: A variable is no number.
        UnavailableError: Other processes cannot be reached.
    """
    told = [os.environ.get(name) for name in VARIABLES]
    if None in told or told[1] == "1":
        return ALONE
    try:
        group = Group(*(int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    except ValueError as error:
        raise UsageError(f"RANK, WORLD_SIZE or LOCAL_RANK is no number: {error}", "use torchrun") from error
    if not dist.is_initialized():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        if gpus:
            torch.cuda.set_device(group.local_rank % torch.cuda.device_count())
        with explain_lost_processes():
            shared, *_ = next(rendezvous("env://", group.rank, group.size))
            store = store_of_this_round(shared, group)
            backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
            dist.init_process_group(backend, store=store, rank=group.rank, world_size=group.size)
        atexit.register(dist.destroy_process_group)
    return group


def store_of_this_round(shared: Store, group: Group) -> Store:
    """Return the part of a store that belongs to the running processes.

    torchrun keeps one store for all restarts, so old entries, such as addresses of dead processes, would be
    taken for current ones. Counters of restarts do not help, since they differ between machines. Instead each
    process asks under a random name, and the first process answers with the name of the round, until all
    processes have confirmed it.

    Raises:
        DistStoreError: A process did not confirm in time.
    """
    store = PrefixStore("famecli", shared)
    own = secrets.token_hex(8)
    if group.is_main:
        _answer(store, own, range(1, group.size))
        return PrefixStore(own, shared)
    store.set(f"question/{group.rank}", own)
    name = store.get(f"answer/{own}").decode()
    store.set(f"known/{name}/{group.rank}", "")
    return PrefixStore(name, shared)


def _answer(store: Store, name: str, ranks: Sequence[int]) -> None:
    """Answer all questions with `name`, until the processes of `ranks` have confirmed it."""
    deadline_s = time.monotonic() + default_pg_timeout.total_seconds()
    while unaware := [rank for rank in ranks if not store.check([f"known/{name}/{rank}"])]:
        if time.monotonic() > deadline_s:
            raise dist.DistStoreError(f"no answer from processes {unaware}")
        for rank in unaware:
            # The running process soon replaces the question of a dead one.
            if store.check([f"question/{rank}"]):
                store.set(f"answer/{store.get(f'question/{rank}').decode()}", name)
        time.sleep(POLL_S)


def no_sync(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which a network of `Group.parallel` does not average gradients over processes."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


@contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Replace torch's long errors about lost processes by one line.

    Raises:
        UnavailableError: Another process is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UnavailableError(
            "another process of this command is gone or cannot be reached",
            "its own message says why; torchrun --max-restarts N restarts all processes",
        ) from error
