"""A headless Chromium, driven over its debugging pipe: what a page is like in a real browser.

No driver is needed: https://chromedevtools.github.io/devtools-protocol/ over file descriptors 3 and 4.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60  # a browser that says nothing for so long is stopped


def require_browser() -> str:
    """Return the path of a Chromium; skip the test where there is none."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: `apt-get install chromium-headless-shell fonts-noto-core`")
    return program


class Page:
    """A page that is open in the browser."""

    def __init__(self, send: Any, receive: Any):
        self._send, self._receive = send, receive
        self._number, self._unread = 0, b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events meanwhile are left out."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            part = self._receive.read1(1 << 16)
            assert part, "the browser has gone"
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, width: int, *, scheme: str = "light", media: str = "screen") -> None:
        """Open a file in a window of so many pixels, and wait until it is laid out."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call("Page.navigate", url=path.resolve().as_uri())
        loaded = "new Promise(done => document.readyState == 'complete' ? done(1) : onload = () => done(1))"
        self.ask(loaded)

    def ask(self, script: str) -> Any:
        """Return the value of an expression, of a promise what it comes to."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page, however long it is."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def fonts_of(self, selector: str) -> dict[str, int]:
        """Return the fonts that the first such element is set in, with the number of glyphs of each."""
        self.call("DOM.enable")
        self.call("CSS.enable")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        fonts = self.call("CSS.getPlatformFontsForNode", nodeId=node)["fonts"]
        return {font["familyName"]: int(font["glyphCount"]) for font in fonts}


@contextlib.contextmanager
def opened(program: str, profile: Path) -> Iterator[Page]:
    """Start a browser with a profile folder of its own; end it at the end."""
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
    command = (
        f'exec "$0" {flags} "$1" about:blank 3<&{to_browser} 4>&{from_browser} >/dev/null 2>&1'
    )
    process = subprocess.Popen(
        ["bash", "-c", command, program, f"--user-data-dir={profile}"],
        pass_fds=(to_browser, from_browser),
    )
    os.close(to_browser)
    os.close(from_browser)
    alarm = threading.Timer(SECONDS, process.kill)
    alarm.start()
    try:
        with os.fdopen(ours_out, "wb") as send, os.fdopen(ours_in, "rb") as receive:
            yield Page(send, receive)
    finally:
        alarm.cancel()
        process.kill()
        process.wait()
