"""Sound that comes at its own pace: a microphone, a stream in the network, MQTT messages."""

from __future__ import annotations

import contextlib
import io
import queue
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import soundfile

from auscult.errors import AuscultError
from auscult.monitor.source import PCM, Chunk, Heard, SourceLost, without_password

_PATIENCE = 10.0
"""Seconds without a sound after which a source is taken to be lost."""

_QUEUE = 600
"""Blocks that wait between a driver's thread and the reader."""

_LARGEST_MESSAGE = 64 * 2**20


class Microphone:
    """A microphone, through PortAudio.

    Parameters
    ----------
    device : str
        Name or number, as `python -m sounddevice` lists them; empty for the system's default.
    """

    live = endless = True

    def __init__(self, device: str = "") -> None:
        self.device: str | int | None = int(device) if device.isdigit() else device or None
        self.name = f"mic:{device}"

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`."""
        sounddevice = library("sounddevice", "monitor")
        blocks: queue.Queue[np.ndarray | str] = queue.Queue(_QUEUE)

        def heard(data: np.ndarray, frames: int, when: Any, status: Any) -> None:  # noqa: ARG001
            with contextlib.suppress(queue.Full):
                if status and status.input_overflow:
                    blocks.put_nowait("the microphone's buffer overflowed")
                blocks.put_nowait(data.copy())

        try:
            facts = sounddevice.query_devices(self.device, "input")
            rate, channels = int(facts["default_samplerate"]), int(facts["max_input_channels"])
            with sounddevice.InputStream(
                device=self.device, samplerate=rate, channels=min(channels, 2), dtype="float32", callback=heard
            ):
                first = True
                while True:
                    block = _next(blocks, self.name)
                    if isinstance(block, str):
                        raise SourceLost(f"{self.name}: {block}")
                    yield Chunk(block, rate, time.time() - len(block) / rate if first else None, first)
                    first = False
        except (sounddevice.PortAudioError, ValueError) as error:
            raise SourceLost(
                f"{self.name}: {error}", "see `python -m sounddevice` for the devices there are"
            ) from error


class NetworkStream:
    """An RTSP or HTTP stream, or any other that FFmpeg's libraries read.

    Parameters
    ----------
    url : str
    """

    live = endless = True

    def __init__(self, url: str) -> None:
        self.url, self.name = url, without_password(url)

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`."""
        av = library("av", "monitor")
        options = {"rtsp_transport": "tcp"} if self.url.startswith("rtsp") else {}
        try:
            with av.open(self.url, timeout=_PATIENCE, options=options) as container:
                if not container.streams.audio:
                    raise AuscultError(f"{self.name}: there is no sound in the stream", "name one with sound")
                yield from self._chunks(av, container)
        except (av.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise SourceLost(f"{self.name}: {without_password(str(reason)).lower()}") from error

    @staticmethod
    def _chunks(av: Any, container: Any) -> Iterator[Chunk]:
        resampler = av.AudioResampler(format="fltp")
        first = True
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                samples, rate = part.to_ndarray().T, part.sample_rate
                yield Chunk(samples, rate, time.time() - len(samples) / rate if first else None, first)
                first = False


class MQTTMessages:
    """Audio messages of an MQTT topic: each a WAV or FLAC file, or raw samples that follow one another.

    Parameters
    ----------
    url : str
        mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or mqtts:// for an encrypted connection.
    pcm : PCM
        How raw samples are written.
    """

    live = endless = True

    def __init__(self, url: str, pcm: PCM) -> None:
        self.url, self.pcm, self.name = urlsplit(url), pcm, without_password(url)
        self.topic = unquote(self.url.path.lstrip("/"))
        if not self.topic or not self.url.hostname:
            raise AuscultError(f"{self.name}: names no host and topic", "write mqtt://HOST/TOPIC")

    def listen(self) -> Iterator[Heard]:
        """See `Source.listen`."""
        mqtt = library("paho.mqtt.client", "monitor")
        messages: queue.Queue[np.ndarray | bytes | str] = queue.Queue(_QUEUE)

        def put(item: bytes | str) -> None:
            with contextlib.suppress(queue.Full):
                messages.put_nowait(item)

        client = connect(mqtt, self.url)
        client.on_connect = lambda c, _data, _flags, code, _more: (
            put(f"the broker refused: {code}") if code.is_failure else c.subscribe(self.topic, qos=1)
        )
        client.on_disconnect = lambda *_: put("the broker dropped the connection")
        client.on_message = lambda _client, _data, message: put(bytes(message.payload))
        try:
            client.connect(self.url.hostname or "", self.url.port or default_port(self.url.scheme), keepalive=30)
        except OSError as error:
            raise SourceLost(f"{self.name}: {error.strerror or error}") from error
        client.loop_start()
        try:
            yield from self._chunks(messages)
        finally:
            client.loop_stop()
            client.disconnect()

    def _chunks(self, messages: queue.Queue[Any]) -> Iterator[Chunk]:
        first = True
        while True:
            message = _next(messages, self.name)
            if isinstance(message, str):
                raise SourceLost(f"{self.name}: {message}")
            chunk = self._decode(message, first)
            if chunk is not None:
                yield chunk
                first = False

    def _decode(self, message: bytes, first: bool) -> Chunk | None:
        if len(message) > _LARGEST_MESSAGE:
            return None
        if message[:4] in (b"RIFF", b"fLaC", b"OggS"):
            try:
                samples, rate = soundfile.read(io.BytesIO(message), dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise SourceLost(f"{self.name}: a message holds no audio ({error})") from error
        else:
            samples, rate = self.pcm.decode(message[: len(message) // self.pcm.frame_bytes * self.pcm.frame_bytes]), 0
        if not len(samples):
            return None
        rate = rate or self.pcm.rate
        return Chunk(samples, rate, time.time() - len(samples) / rate if first else None, first)


def connect(mqtt: Any, url: Any) -> Any:
    """An MQTT client with the URL's user, password and encryption; not connected yet."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    if url.username:
        client.username_pw_set(unquote(url.username), unquote(url.password or ""))
    if url.scheme == "mqtts":
        client.tls_set()
    return client


def default_port(scheme: str) -> int:
    """Of an MQTT broker."""
    return 8883 if scheme == "mqtts" else 1883


def _next(blocks: queue.Queue[Any], name: str) -> Any:
    try:
        return blocks.get(timeout=_PATIENCE)
    except queue.Empty:
        raise SourceLost(f"{name}: nothing came for {_PATIENCE:g} s") from None


def library(name: str, extra: str) -> Any:
    """Import a library that an extra brings.

    Raises
    ------
    AuscultError
        If it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # sounddevice without PortAudio is an OSError
        raise AuscultError(f"{name} is missing ({error})", f'install it: pip install "auscult[{extra}]"') from error
