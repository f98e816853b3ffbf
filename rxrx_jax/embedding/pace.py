"""How fast a job is, and how long it will take."""

import time

MEASURED, ENOUGH_SECONDS = 16, 20.0  # minibatches, or seconds, after which the speed is known


class Pace:
    """The speed from the second minibatch on, for the first compiles. Args: left, images of the host that has most."""

    def __init__(self, left: int, wells_per_site: float, chips: int):
        self._left, self._wells, self._chips = left, wells_per_site, chips
        self._begin, self._first, self._images, self._count, self._said = 0.0, 0.0, 0.0, 0, False
        self.rate = 0.0  # wells per second and chip

    def add(self, images: float, last: bool) -> str:
        """After a minibatch: the line to print when the speed is known, which it says once; else ""."""
        now = time.perf_counter()
        if not self._begin:
            self._begin, self._first = now, images
            return ""
        self._images, self._count = self._images + images, self._count + 1
        seconds = now - self._begin
        self.rate = self._images * self._wells / seconds / self._chips
        if self._said or not (last or self._count >= MEASURED or seconds > ENOUGH_SECONDS):
            return ""
        self._said = True
        hours = (self._left - self._first - self._images) * self._wells / self.rate / self._chips / 3600
        return (
            f"plan: {self.rate:.3g} wells/s per chip, measured over {self._count} minibatches of the first host with "
            f"reading; {hours:.3g} hours to go"
        )
