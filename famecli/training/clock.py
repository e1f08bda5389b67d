"""Wall and CPU time of a training, without the time in which its process was stopped."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BEAT_S = 0.25
# A shorter silence may be a system call, or a machine with too much to do.
LONGEST_SILENCE_S = 1.5
# A process that uses less of the CPU in a silence than this part of it was stopped.
IDLE_PART = 0.1


class Clock:
    """Seconds of this process, in which a stop, as by SIGSTOP or a frozen machine, takes no time.

    While the clock is `running`, a thread looks at the time every `BEAT_S`. A stopped process does not, and
    uses no CPU time: a long silence without CPU time is taken for a stop, whose length is known to `BEAT_S`.

    Args:
        wall_s: Function that returns the wall time in seconds.
        cpu_s: Function that returns the CPU time of this process in seconds.
    """

    def __init__(
        self, wall_s: Callable[[], float] = time.monotonic, cpu_s: Callable[[], float] = time.process_time
    ) -> None:
        self._lock = threading.Lock()
        self._stopped_s = 0.0
        self._wall_s, self._cpu_s = wall_s, cpu_s
        self._beaten_s, self._beaten_cpu_s = wall_s(), cpu_s()

    def now_s(self) -> float:
        """Return seconds since a fixed moment, without stops."""
        with self._lock:
            now_s, cpu_s = self._wall_s(), self._cpu_s()
            silence_s = now_s - self._beaten_s
            if silence_s > LONGEST_SILENCE_S and cpu_s - self._beaten_cpu_s < IDLE_PART * silence_s:
                self._stopped_s += silence_s
            self._beaten_s, self._beaten_cpu_s = now_s, cpu_s
            return now_s - self._stopped_s

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch for stops meanwhile; what was before is no silence."""
        with self._lock:
            self._beaten_s, self._beaten_cpu_s = self._wall_s(), self._cpu_s()
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_S):
                self.now_s()

        thread = threading.Thread(target=beat, name="famecli clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
