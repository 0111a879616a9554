"""Progress lines with an estimate of the time left."""

import time

__all__ = ["Progress"]


class Progress:
    """Prints a line about every ten seconds, so that a log file stays readable."""

    def __init__(self, name: str, total: int, *, interval_seconds: float = 10.0) -> None:
        self.name, self.total = name, total
        self.interval_seconds = interval_seconds
        self.started = self.printed = time.perf_counter()
        self.done = 0

    def update(self, done: int, **values: float) -> None:
        """Note that `done` of the steps are finished."""
        self.done = done
        now = time.perf_counter()
        if now - self.printed >= self.interval_seconds:
            self.printed = now
            elapsed = now - self.started
            left = elapsed / done * (self.total - done)
            self._print(f"{done}/{self.total} {elapsed:.0f} s, at most {left:.0f} s left", values)

    def close(self, **values: float) -> None:
        """Print the last line of the stage."""
        elapsed = time.perf_counter() - self.started
        self._print(f"done after {self.done} steps, {elapsed:.0f} s", values)

    def _print(self, text: str, values: dict[str, float]) -> None:
        numbers = " ".join(f"{name}={value:.3f}" for name, value in values.items())
        print(f"[{time.strftime('%H:%M:%S')}] {self.name}: {text} {numbers}", flush=True)
