"""How long to wait between attempts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Seconds to wait before attempt 2, 3, ...: `first`, doubled each time, `largest` at most."""

    first: float = 0.2
    largest: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds after the `failures`-th failure in a row."""
        return float(min(self.first * 2.0 ** min(failures - 1, 60), self.largest))
