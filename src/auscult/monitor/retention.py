"""What is too old, or too much, is deleted from a history: sounds before scores, the oldest first."""

from __future__ import annotations

from auscult.monitor.history import History

DAY = 86_400.0

_CLIPS_AT_ONCE = 16
_SCORES_AT_ONCE = 20_000


def prune(history: History, now: float, *, max_days: float | None = None, max_bytes: int | None = None) -> None:
    """Delete what is older than `max_days`, then the oldest sounds, then scores, until the file is small enough.

    Alarms that somebody labelled stay whatever their age: `auscult recalibrate` reads them. Their sounds may go.

    Parameters
    ----------
    history : History
    now : float
        Unix seconds.
    max_days : float, optional
    max_bytes : int, optional
        Of the file; at least a few hundred kilobytes are always used.

    Raises
    ------
    AuscultError
        If the file cannot be written.
    """
    if max_days is not None:
        _older_than(history, now - max_days * DAY)
    if max_bytes is not None:
        while used_bytes(history) > max_bytes and (_drop_clips(history) or _drop_scores(history)):
            pass
    history.connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free a single page


def used_bytes(history: History) -> int:
    """Bytes of the file that hold something."""
    pages, free, size = (
        int(history.connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _older_than(history: History, oldest: float) -> None:
    with history.writing() as connection:
        connection.execute("DELETE FROM scores WHERE time < ?", (oldest,))
        connection.execute("DELETE FROM gaps WHERE ended < ?", (oldest,))
        connection.execute("DELETE FROM clips WHERE alarm IN (SELECT id FROM alarms WHERE ended < ?)", (oldest,))
        connection.execute(
            "DELETE FROM alarms WHERE ended < ? AND id NOT IN "
            "(SELECT alarm FROM remarks WHERE kind IN ('false alarm', 'confirmed'))",
            (oldest,),
        )


def _drop_clips(history: History) -> bool:
    with history.writing() as connection:
        query = "DELETE FROM clips WHERE alarm IN (SELECT alarm FROM clips ORDER BY begins LIMIT ?)"
        return connection.execute(query, (_CLIPS_AT_ONCE,)).rowcount > 0


def _drop_scores(history: History) -> bool:
    with history.writing() as connection:
        query = "DELETE FROM scores WHERE (stream, time) IN (SELECT stream, time FROM scores ORDER BY time LIMIT ?)"
        return connection.execute(query, (_SCORES_AT_ONCE,)).rowcount > 0
