"""The processes that share one command's work, as torchrun starts them.

Nothing here starts a process: torchrun does, and tells each one in the environment which of how many it is.
Work is dealt out in the pieces that a single process would work on, so that results do not depend on the
number of processes; the first process alone prints and writes.
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

# Before any group exists: DDP imports it, and its defaults would hold the group that exists by then for good.
# Python then ends beside the group's threads, which abort it when they let go of a tensor too late.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.constants import default_pg_timeout
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from famecli.errors import UnavailableError, UsageError

T = TypeVar("T")
POLL_S = 0.02
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Group:
    """This process among those of a command.

    Args:
        rank: Which it is, from 0.
        size: How many there are.
        local_rank: Which it is on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @property
    def restarts(self) -> bool:
        """Whether torchrun would start all processes anew when one ends with another code than 0."""
        return self.size > 1 and os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"

    def device(self, name: str) -> str:
        """Return the device of this process for the one typed: each has a GPU of its own, if there are any.

        Raises:
            UsageError: One GPU was chosen for all.
        """
        if self.size == 1 or name not in ("auto", "cuda"):
            if self.size > 1 and name.startswith("cuda:"):
                raise UsageError(f"{self.size} processes cannot share {name}", "choose --device cuda")
            return name
        if name == "auto" and not torch.cuda.is_available():
            return name
        return f"cuda:{self.local_rank}"

    def share(self, batch: int) -> slice:
        """Return the rows of a batch that are this process's, a part as large as everybody's.

        Raises:
            UsageError: The batch cannot be divided like that.
        """
        if batch % self.size:
            raise UsageError(
                f"a batch of {batch} images cannot be divided among {self.size} processes",
                f"choose --batch-size {-(-batch // self.size) * self.size}, or another number of processes",
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def largest(self, value: int) -> int:
        """Return the largest `value` among all processes."""
        found = torch.tensor(value)
        if self.size > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def all(self, value: bool) -> bool:
        """Return whether `value` is true in all processes."""
        return self.largest(-int(value)) != 0

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

    def in_turn(self, tasks: Sequence[T], work: Callable[[T], np.ndarray]) -> Iterator[np.ndarray]:
        """Yield `work` of each task, in their order and in each process, though each works on its own alone.

        Args:
            tasks: The same in all processes.
            work: Makes of a task an array; its first dimension may vary, all others and the dtype not.
        """
        for start in range(0, len(tasks), self.size):
            # In the last round the idle ones repeat the last task, so that all have an array to send.
            own = work(tasks[min(start + self.rank, len(tasks) - 1)])
            yield from self.gather(own)[: len(tasks) - start]

    @contextmanager
    def one_before_the_others(self) -> Iterator[None]:
        """Let the first process of each machine through, then the others, who find what it fetched."""
        if self.local_rank:
            self.largest(0)
        yield
        if not self.local_rank:
            self.largest(0)

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return `model`, in a wrapper that averages gradients over all processes if there are several."""
        if self.size == 1:
            return model
        wrapper = DistributedDataParallel(model)
        # Buffers are masks, which never change. The argument of that name is deprecated in new versions.
        wrapper.broadcast_buffers = False
        return wrapper


ALONE = Group()


def join() -> Group:
    """Return the group that the environment tells of, connected; `ALONE` if it tells of none.

    Raises:
        UsageError: What it tells makes no sense.
        UnavailableError: The others cannot be reached.
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
    """Return the part of a store that belongs to the processes which run now.

    torchrun keeps one store for all its restarts. What dead processes left there, such as their addresses,
    would be taken for that of the living. So each process asks under a name of its own, and the first one
    answers with the name of the round until all have told that they know it.

    Raises:
        DistStoreError: Not all processes are heard of in time.
    """
    store = PrefixStore("famecli", shared)
    own = secrets.token_hex(8)
    if group.first:
        _answer(store, own, range(1, group.size))
        return PrefixStore(own, shared)
    store.set(f"question/{group.rank}", own)
    name = store.get(f"answer/{own}").decode()
    store.set(f"known/{name}/{group.rank}", "")
    return PrefixStore(name, shared)


def _answer(store: Store, name: str, ranks: Sequence[int]) -> None:
    """Tell `name` to all that ask, until those of `ranks` know it."""
    deadline_s = time.monotonic() + default_pg_timeout.total_seconds()
    while unaware := [rank for rank in ranks if not store.check([f"known/{name}/{rank}"])]:
        if time.monotonic() > deadline_s:
            raise dist.DistStoreError(f"no word from processes {unaware}")
        for rank in unaware:
            # A question of a dead process is soon replaced by that of the living one.
            if store.check([f"question/{rank}"]):
                store.set(f"answer/{store.get(f'question/{rank}').decode()}", name)
        time.sleep(POLL_S)


def apart(network: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which a network of `Group.parallel` sums gradients in its own process only."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return nullcontext()


@contextmanager
def explain_lost_processes() -> Iterator[None]:
    """Say in one line that another process is gone, where torch says so at length.

    Raises:
        UnavailableError: It is.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UnavailableError(
            "another process of this command is gone or cannot be reached",
            "its own message says why; with --max-restarts torchrun starts all of them again",
        ) from error
