"""A real browser for tests: Chromium, driven through its DevTools protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest


class Browser:
    """One page of a headless Chromium.

    Parameters
    ----------
    home : Path
        For its profile.
    width, height : int
        Of the page.
    """

    def __init__(self, home: Path, width: int = 1180, height: int = 1400) -> None:
        from websockets.sync.client import connect

        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            pytest.skip("no Chromium here")
        words = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        words += ["--disable-background-networking", "--mute-audio", "--autoplay-policy=no-user-gesture-required"]
        words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # whatever is not bundled must not load
        words += [f"--user-data-dir={home}", f"--window-size={width},{height}", "about:blank"]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = int(self._eventually(lambda: (home / "DevToolsActivePort").read_text().split()[0]))
            pages = self._eventually(lambda: _json(f"http://127.0.0.1:{port}/json/list"))
            page = next(one for one in pages if one["type"] == "page")
            self.socket = connect(page["webSocketDebuggerUrl"], max_size=2**27)
        except BaseException:
            self.process.kill()
            raise
        self.number = 0
        self.told: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def close(self) -> None:
        self.socket.close()
        self.process.kill()
        self.process.wait()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol; events that come meanwhile are kept in `told`."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.told.append(message)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def dark(self, dark: bool) -> None:
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[wanted])

    def run(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 30.0) -> Any:
        """Wait until an expression is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """With a mouse, where the element is: what covers it gets the click."""
        where = self.until(
            f"(() => {{ const e = document.querySelector({selector!r}); if (!e) return null;"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "return r.width ? [r.x + r.width / 2, r.y + r.height / 2] : null; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def complaints(self) -> list[str]:
        """Errors of scripts, blocked or failed requests."""
        self.run("0")
        said = []
        for event in self.told:
            about = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(about["exceptionDetails"].get("exception", {}).get("description")))
            if event["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
                said.append(about["entry"]["text"])
            if event["method"] == "Network.loadingFailed" and not about.get("canceled"):
                said.append(about["errorText"])
        return said

    @staticmethod
    def _eventually(get: Any, seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return get()
            except (OSError, IndexError, ValueError):
                assert time.monotonic() < deadline, "Chromium does not start"
                time.sleep(0.05)


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)
