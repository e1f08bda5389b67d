"""How a command joins the processes that torchrun started with it."""

from typing import TYPE_CHECKING

from famecli.output import Output

if TYPE_CHECKING:
    from famecli.runtime.distributed import Group


def join(output: Output) -> "Group":
    """Return the processes of this command, of which all but the first fall silent; see `distributed.join`.

    Outputs are to be checked before it: it waits for all processes, so none sees what the first one writes.
    """
    from famecli.runtime import distributed

    group = distributed.join()
    output.quiet = output.quiet or not group.first
    return group
