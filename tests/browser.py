"""A page in headless Chromium, driven over a pipe by its DevTools protocol: layout, pictures, errors, requests."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
SECONDS = 60.0
# DevTools reads from descriptor 3 and writes to 4
PLACED = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
)
MEASURE = """JSON.stringify({
  width: document.documentElement.scrollWidth, viewport: innerWidth, images: document.images.length,
  broken: [...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt),
  links: [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href')),
  cut: [...document.querySelectorAll('p, li, h1, h2, h3, summary, th, td')].filter(
    e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60)),
})"""


@dataclass(frozen=True)
class Seen:
    """What a browser found on a page.

    Attributes:
        width: of the document in CSS pixels.
        viewport: the width that there is.
        images: how many.
        broken: alternative texts of those that did not load.
        links: targets as they are written.
        cut: beginnings of texts that are wider than their place.
        errors: messages of the console and uncaught exceptions.
        requests: addresses that were asked for, but for the page itself and data inside it.
    """

    width: int
    viewport: int
    images: int
    broken: list[str]
    links: list[str]
    cut: list[str]
    errors: list[str]
    requests: list[str]


class Browser:
    """A headless Chromium; a context manager that ends it."""

    def __init__(self, profile: Path) -> None:
        pipes = [os.pipe(), os.pipe()]
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (pipes[0][0], pipes[1][1])]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLACED, *map(str, theirs), CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*theirs, pipes[0][0], pipes[1][1]):
            os.close(end)
        self._to, self._from = pipes[0][1], pipes[1][0]
        os.set_blocking(self._from, False)
        self._left, self._number, self._events = b"", 0, list[dict[str, Any]]()
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable", True)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._to)
        os.close(self._from)

    def _ask(self, method: str, in_page: bool = False, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if in_page else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda found: found.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _wait(self, wanted: Any) -> dict[str, Any]:
        """The next message that is wanted; events on the way are kept."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            message, found, rest = self._left.partition(b"\0")
            if found:
                self._left = rest
                told = json.loads(message)
                self._events.append(told)
                if wanted(told):
                    return told
                continue
            try:
                self._left += os.read(self._from, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
        raise TimeoutError(f"no answer of {CHROMIUM} in {SECONDS:g} s")

    def see(self, file: Path, width: int, height: int, picture: Path | None = None, full: bool = False) -> Seen:
        """Open a file at a size, a phone below 600 pixels; keep a picture of it if asked."""
        self._events.clear()
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self._ask("Emulation.setDeviceMetricsOverride", True, **size)
        self._ask("Page.navigate", True, url=file.as_uri())
        self._wait(lambda told: told.get("method") == "Page.loadEventFired")
        measured = self.measure()
        if picture:
            shot = self._ask("Page.captureScreenshot", True, format="png", captureBeyondViewport=full)
            picture.write_bytes(base64.b64decode(shot["data"]))
        found = [(told["method"], told["params"]) for told in self._events if "method" in told]
        errors = [
            p["entry"]["text"] for name, p in found if name == "Log.entryAdded" and p["entry"]["level"] == "error"
        ]
        errors += [p["exceptionDetails"]["text"] for name, p in found if name == "Runtime.exceptionThrown"]
        errors += [str(p["args"]) for name, p in found if name == "Runtime.consoleAPICalled" and p["type"] == "error"]
        asked = [p["request"]["url"] for name, p in found if name == "Network.requestWillBeSent"]
        requests = [url for url in asked if not url.startswith("data:") and url != file.as_uri()]
        return Seen(**measured, errors=errors, requests=requests)

    def measure(self) -> dict[str, Any]:
        """Widths, pictures, links and texts that are cut, as the page is now."""
        return json.loads(self.run(MEASURE))

    def run(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self._ask("Runtime.evaluate", True, expression=expression)["result"].get("value")
