"""Wall and CPU time of a training, without the time in which its process was stopped."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BEAT_S = 0.25
# A shorter silence may be a system call, or an overloaded machine.
LONGEST_SILENCE_S = 1.5
# A silence with a smaller fraction of CPU time than this is a stop.
IDLE_PART = 0.1


class Clock:
    """Clock that stands still while the process is stopped, as by SIGSTOP or a frozen machine.

    While the clock is `running`, a thread reads the time every `BEAT_S`. A stopped process reads nothing and
    uses no CPU time, so a long silence without CPU time counts as a stop, measured to within `BEAT_S`.

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
        """Watch for stops inside the block; earlier time does not count as silence."""
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
