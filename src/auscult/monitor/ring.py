"""The newest rows of something that never ends, in bounded memory."""

from __future__ import annotations

import numpy as np


class Ring:
    """Keeps at least the last `keep` rows; rows are counted from the first ever appended.

    Parameters
    ----------
    keep : int
    width : tuple of int
        Shape of a row: () for samples, (n_mels,) for frames.
    """

    def __init__(self, keep: int, width: tuple[int, ...] = ()) -> None:
        self.keep = keep
        self.end = 0
        # Twice as long as needed: what is kept moves to the front once in `keep` rows, and a slice stays one view.
        self._buffer = np.empty((2 * keep, *width), dtype=np.float32)
        self._filled = 0

    @property
    def begin(self) -> int:
        """Number of the oldest row that is held."""
        return self.end - self._filled

    def append(self, rows: np.ndarray) -> None:
        """Add rows, shape (n, *width)."""
        self.end += len(rows)
        rows = rows[-self.keep :]
        if self._filled + len(rows) > len(self._buffer):
            stays = min(self.keep, self._filled)
            self._buffer[:stays] = self._buffer[self._filled - stays : self._filled]
            self._filled = stays
        self._buffer[self._filled : self._filled + len(rows)] = rows
        self._filled += len(rows)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`, a view that the next `append` may change.

        Raises
        ------
        IndexError
            If some are not there any more, or not yet.
        """
        if not self.begin <= start <= stop <= self.end:
            raise IndexError(f"rows {start} to {stop} of {self.begin} to {self.end}")
        offset = self._filled - self.end
        return self._buffer[start + offset : stop + offset]
