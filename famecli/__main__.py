"""Entry point of `fame` and `python -m famecli`; it reports when memory is too small for the imports."""

import os
import sys

# Below this much address space, libraries end the process while they are imported.
LEAST_MIB = 768
# Commands that need neither numpy nor torch.
SMALL = ("info", "--help", "-h", "--version")
TOO_LITTLE = 8


def main() -> None:
    """Run the command line; end the process with one of `famecli.errors.ExitCode`."""
    limit_mib = _limit_mib()
    if limit_mib is not None and limit_mib < LEAST_MIB and not set(sys.argv[1:]) & set(SMALL):
        sys.stderr.write(f"error: out of memory: {limit_mib} MiB are allowed, {LEAST_MIB} needed\n")
        sys.exit(TOO_LITTLE)
    try:
        from famecli.cli.app import main as run
    except MemoryError:
        os.write(2, b"error: out of memory\n")
        sys.exit(TOO_LITTLE)
    run()


def _limit_mib() -> int | None:
    """Return the limit on the address space of this process; None where there is none."""
    try:
        import resource
    except ImportError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit >> 20


if __name__ == "__main__":
    main()
