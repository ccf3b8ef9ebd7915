"""Uploads are judged: decoded in their processes, scored in a few threads, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException

from auscult.corpus import Clip
from auscult.errors import AudioError
from auscult.evaluation.explanation import explain
from auscult.model import Model
from auscult.service.decoding import Decoder
from auscult.service.settings import Limits

T = TypeVar("T")


class Judges:
    """Bounded workers for decoding and scoring.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.decoder = Decoder(limits.workers, limits.clip_seconds, limits.decode_seconds)
        self._threads = ThreadPoolExecutor(limits.workers, thread_name_prefix="judge")
        self._drawing = asyncio.Lock()
        self.waiting = 0

    def close(self) -> None:
        """End the workers."""
        self.decoder.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def work(self, function: Callable[[], T], seconds: float) -> T:
        """Do something in a worker thread.

        Raises
        ------
        HTTPException
            503 if too many wait already or it takes too long.
        """
        if self.waiting >= self.limits.waiting:
            raise HTTPException(503, "too many clips are waiting to be judged", {"Retry-After": "5"})
        self.waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, function)
        # Until it is really done: a thread that is given up goes on working.
        future.add_done_callback(self._done)
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except TimeoutError as error:
            raise HTTPException(503, "judging takes too long now", {"Retry-After": "10"}) from error

    def _done(self, future: asyncio.Future[Any]) -> None:
        self.waiting -= 1
        if not future.cancelled():
            future.exception()

    async def clip(self, model: Model, data: bytes, name: str, machine: Clip) -> Clip:
        """Decode an upload.

        Raises
        ------
        AudioError
            If it is no recording.
        """
        front = model.detector.front_end
        limit = self.limits.decode_seconds + self.limits.score_seconds
        wave = await self.work(lambda: self.decoder.decode(data, front.sample_rate, front.channel, name), limit)
        kind, number = machine.machine_type, machine.machine_id
        return Clip(path=name, machine_type=kind, machine_id=number, samples=wave, rate=front.sample_rate)

    async def score(self, model: Model, clip: Clip) -> dict[str, Any]:
        """What scores.csv would say of a clip.

        Raises
        ------
        AudioError
            If it cannot be judged.
        """
        score = await self.work(lambda: model.detector.score_clip(clip), self.limits.score_seconds)
        return verdict(model, clip, score)

    async def picture(self, model: Model, clip: Clip) -> bytes:
        """The picture that `auscult explain` draws, as PNG."""
        import io

        from auscult.evaluation import pictures

        def draw() -> bytes:
            buffer = io.BytesIO()
            pictures.draw(explain(model, clip)).savefig(buffer, format="png", dpi=100)
            return buffer.getvalue()

        async with self._drawing:  # a drawing takes as much memory as many scores
            return await self.work(draw, self.limits.score_seconds)

    async def map(self, model: Model, clip: Clip) -> dict[str, Any]:
        """Log-mel and relative anomaly map of a clip, with their axes."""
        shown = await self.work(lambda: explain(model, clip), self.limits.score_seconds)
        front, region = shown.front_end, shown.region
        return {
            **verdict(model, clip, shown.score),
            "seconds": np.round(front.frame_times(shown.logmel.shape[1]), 4).tolist(),
            "hertz": np.round(front.band_centres(), 1).tolist(),
            "logmel": np.round(shown.logmel, 2).tolist(),
            "map": np.round(shown.relative, 3).tolist(),
            "strangest": {
                "start": region.start,
                "stop": region.stop,
                "low": region.low,
                "high": region.high,
                "level": region.level,
            },
            "findings": list(shown.findings),
        }


def verdict(model: Model, clip: Clip, score: float) -> dict[str, Any]:
    """Score, p-value, threshold and decision of a clip; null for what there is not."""
    calibration = model.calibration
    p_value = float(calibration.p_values(np.array([score]))[0])
    return {
        "clip": clip.path,
        "score": score,
        "p_value": None if math.isnan(p_value) else p_value,
        "threshold": calibration.threshold,
        "decision": calibration.decide(np.array([score]))[0] or None,
        "error": None,
    }


def failure(name: str, error: AudioError) -> dict[str, Any]:
    """What is said of a clip that could not be judged."""
    return {"clip": name, "score": None, "p_value": None, "threshold": None, "decision": None, "error": str(error)}
