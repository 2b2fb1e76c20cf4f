"""A headless Chromium for tests of the page, driven by the WebDriver protocol alone."""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--window-size=1280,900",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
)


class Browser:
    """One window. Skips the test where Chromium or its driver is missing."""

    def __init__(self) -> None:
        driver = shutil.which("chromedriver")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        if not driver or not chromium:
            pytest.skip("chromium and chromedriver are not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.profile = tempfile.mkdtemp()
        home = os.environ | {"HOME": self.profile}
        self.process = subprocess.Popen(
            [driver, f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=home,
        )
        self.url = f"http://127.0.0.1:{port}/session"
        options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={self.profile}/data"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": 300_000, "script": 300_000},
        }
        try:
            answer = self._start({"capabilities": {"alwaysMatch": wanted}})
        except Exception:
            self.close()
            raise
        self.url += "/" + answer["sessionId"]

    def _start(self, wanted: dict) -> dict:
        for _ in range(100):
            try:
                return self._call("POST", "", wanted)
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise RuntimeError(error.read().decode()) from error
                time.sleep(0.1)
        raise RuntimeError("chromedriver does not answer")

    def _call(self, method: str, path: str, body: dict | None = None):
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())["value"]

    def close(self) -> None:
        if self.url.count("/") > 3:
            try:
                self._call("DELETE", "")
            except OSError:
                pass
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, path: Path) -> float:
        """Open a file and wait until the page says that it is ready; seconds to its picture."""
        self._call("POST", "/url", {"url": path.resolve().as_uri()})
        for _ in range(1200):
            ready = self.run("return document.body.dataset.ready || ''")
            error = self.run("return document.getElementById('error').textContent")
            assert not error, error
            if ready:
                return float(ready) / 1000
            time.sleep(0.25)
        raise AssertionError(f"the page is not ready: {self.log()}")

    def run(self, script: str, *arguments):
        """What a script returns."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, name: str) -> str:
        """The text that an element shows."""
        (found,) = self.run(f"return [document.getElementById('{name}').textContent]")
        return found

    def click(self, name: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click with the mouse at a part of an element's width and height."""
        box = self.run(
            f"const box = document.getElementById('{name}').getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]"
        )
        at = {"x": round(box[0] + x * box[2]), "y": round(box[1] + y * box[3])}
        steps = [
            {"type": "pointerMove", "duration": 0, **at},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "actions": steps}
        self._call("POST", "/actions", {"actions": [mouse]})

    def press(self, key: str) -> None:
        """Press and release a key."""
        steps = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": steps}]})

    def log(self) -> list[str]:
        """What the page wrote to the console, errors among it, since the last call."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path | None = None) -> bytes:
        """The window as PNG."""
        picture = base64.b64decode(self._call("GET", "/screenshot"))
        if path:
            path.write_bytes(picture)
        return picture
