"""Wall and CPU time of a training, without the time in which its process was stopped."""

import threading
import time
from collections.abc import Iterator
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
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped_s = 0.0
        self._beaten_s = time.monotonic()
        self._beaten_cpu_s = time.process_time()

    def now_s(self) -> float:
        """Return seconds since a fixed moment, without stops."""
        with self._lock:
            now_s, cpu_s = time.monotonic(), time.process_time()
            silence_s = now_s - self._beaten_s
            if silence_s > LONGEST_SILENCE_S and cpu_s - self._beaten_cpu_s < IDLE_PART * silence_s:
                self._stopped_s += silence_s
            self._beaten_s, self._beaten_cpu_s = now_s, cpu_s
            return now_s - self._stopped_s

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch for stops meanwhile; what was before is no silence."""
        with self._lock:
            self._beaten_s, self._beaten_cpu_s = time.monotonic(), time.process_time()
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
