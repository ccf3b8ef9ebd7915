"""From a model file and the name of a source to a watch that runs until it is stopped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from auscult.errors import AuscultError
from auscult.model import Model
from auscult.monitor.events import Sink
from auscult.monitor.history import History
from auscult.monitor.listening import Listening, Patience
from auscult.monitor.sinks import Console, JSONLines, Prometheus
from auscult.monitor.sinks_network import MQTTSink, Webhook
from auscult.monitor.source import PCM, open_source
from auscult.monitor.watch import Watch, WatchSettings
from auscult.parallel import torch_threads

SECRET = "AUSCULT_WEBHOOK_SECRET"
"""Environment variable that holds what webhooks are signed with: arguments are seen by every user of the machine."""


@dataclass(frozen=True)
class Outputs:
    """Where the events go.

    Attributes
    ----------
    history : Path or None
    json : Path or None
        JSON lines; "-" for standard output, which then has nothing else.
    webhooks, mqtt : sequence of str
        Addresses.
    prometheus : int or None
        Port.
    """

    history: Path | None = None
    json: Path | None = None
    webhooks: Sequence[str] = field(default_factory=tuple)
    mqtt: Sequence[str] = field(default_factory=tuple)
    prometheus: int | None = None

    def open(self) -> list[Sink]:
        """Make the sinks.

        Raises
        ------
        AuscultError
            If one cannot be.
        """
        to_stdout = self.json is not None and str(self.json) == "-"
        sinks: list[Sink] = [] if to_stdout else [Console()]
        if self.json is not None:
            sinks.append(JSONLines(None if to_stdout else self.json))
        if self.prometheus is not None:
            sinks.append(Prometheus(self.prometheus))
        secret = os.environ.get(SECRET, "")
        sinks += [Webhook(url, secret) for url in self.webhooks]
        sinks += [MQTTSink(url) for url in self.mqtt]
        return sinks


def watch(
    model: Model,
    model_file: Path,
    spec: str,
    settings: WatchSettings,
    outputs: Outputs,
    *,
    pcm: PCM = PCM(),
    real_time: bool = False,
    patience: Patience = Patience(),
) -> Watch:
    """Watch until the source ends, or Ctrl-C.

    Parameters
    ----------
    model : Model
    model_file : Path
        Where it lies, as the history says.
    spec : str
        Of the source; see `auscult.monitor.source.open_source`.
    settings : WatchSettings
    outputs : Outputs
    pcm : PCM
        How raw samples are written.
    real_time : bool
        Hear a file at the pace it was recorded.
    patience : Patience
        With a source that drops.

    Returns
    -------
    Watch
        Closed; its `counts` say what was heard.

    Raises
    ------
    AuscultError
        If source or an output cannot be used.
    """
    source = open_source(spec, pcm=pcm, real_time=real_time)
    history = History(outputs.history) if outputs.history is not None else None
    try:
        running = Watch(
            model,
            settings,
            history=history,
            sinks=outputs.open(),
            model_name=str(model_file),
            source_name=source.name,
            live=source.live,
        )
        with torch_threads(1), Listening(source, patience) as heard:
            try:
                running.run(heard)
            except KeyboardInterrupt:
                heard.stop()
            finally:
                running.close()
        return running
    finally:
        if history is not None:
            history.close()


def parse_alarm(text: str) -> tuple[int, int]:
    """Read "3/5": how many of how many windows.

    Raises
    ------
    AuscultError
        If it is no such thing.
    """
    least, slash, of = text.partition("/")
    if not slash or not least.isdigit() or not of.isdigit():
        raise AuscultError(f"--alarm {text}: does not say how many of how many windows", "as --alarm 3/5")
    return int(least), int(of)
