"""A headless Chromium, spoken to over its debugging pipe (no port, no driver of a matching version)."""

import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time

from world import Failed


class Browser:
    """One Chromium with a profile of its own, which ends with it."""

    def __init__(self, *words):
        binary = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
        if not binary:
            raise Failed("chromium is not installed (`.ci/run packages` installs it)")
        self.profile = tempfile.mkdtemp(prefix="tidegate-browser-")
        theirs_in, self.to = os.pipe()
        self.of, theirs_out = os.pipe()
        # Chromium reads its commands from 3 and answers on 4. Away from there first, lest one lies where the other goes.
        high_in, high_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out))

        def hand_over():
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        # In a container there is no namespace to make a sandbox of; the only pages it sees are ours.
        command = [binary, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--disable-gpu",
                   "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "--disable-background-networking", *words, "about:blank"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        close_fds=True, pass_fds=(3, 4), preexec_fn=hand_over, env={**os.environ, "HOME": self.profile})
        for end in (theirs_in, theirs_out, high_in, high_out):
            os.close(end)
        self.number, self.answers, self.pages, self.lock = 0, {}, {}, threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        data = b""
        while piece := os.read(self.of, 1 << 16):
            *messages, data = (data + piece).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers[message["id"]].put(message)
                elif page := self.pages.get(message.get("sessionId")):
                    page.note(message["method"], message["params"])

    def ask(self, method, session=None, seconds=30, **params):
        answer = queue.Queue()
        with self.lock:
            self.number += 1
            number = self.number
            self.answers[number] = answer
            message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
            os.write(self.to, json.dumps(message).encode() + b"\0")
        try:
            told = answer.get(timeout=seconds)
        except queue.Empty:
            raise Failed(f"Chromium did not answer {method} within {seconds} s") from None
        finally:
            del self.answers[number]
        if "error" in told:
            raise Failed(f"{method}: {told['error']}")
        return told["result"]

    def open(self, url, width=1280, height=900, scheme="light", before=""):
        """A page in the place of the one before: only a tab in front is visible to itself. `before` runs ahead of its scripts."""
        for session in list(self.pages):
            self.ask("Target.closeTarget", targetId=self.pages.pop(session).target)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.size(width, height)
        page.prefer(scheme)
        page.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
        page.ask("Page.navigate", url=url)
        page.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'", what=f"{url} is loaded")
        return page

    def close(self):
        try:
            self.ask("Browser.close", seconds=5)
            self.process.wait(5)
        except (Failed, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        for end in (self.to, self.of):
            os.close(end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Page:
    """One tab: what it complained about, whom it asked, and hands and eyes for it."""

    KEYS = {"Enter": (13, "\r"), "Tab": (9, None), "Escape": (27, None), "ArrowDown": (40, None), "ArrowUp": (38, None),
            "ArrowLeft": (37, None), "ArrowRight": (39, None), "Home": (36, None), "End": (35, None)}

    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target
        self.complaints, self.asked = [], []

    def note(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])

    def ask(self, method, **params):
        return self.browser.ask(method, session=self.session, **params)

    def run(self, script):
        """The value of an expression in the page, promises awaited."""
        told = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise Failed(f"{script}: {told['exceptionDetails'].get('exception', {}).get('description')}")
        return told["result"].get("value")

    def wait(self, script, seconds=20, what=None):
        """Waits until an expression is true, and gives its value. One that throws is not true yet: the page may be loading."""
        deadline = time.monotonic() + seconds
        while True:
            why = ""
            try:
                if value := self.run(script):
                    return value
            except Failed as failure:
                why = f" ({failure})"
            if time.monotonic() > deadline:
                raise Failed(f"after {seconds} s not so: {what or script}{why}")
            time.sleep(0.1)

    def text(self, selector):
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def size(self, width, height, scale=1):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)

    def prefer(self, scheme, motion="no-preference"):
        features = [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def press(self, key):
        if key in self.KEYS:
            code, text = self.KEYS[key]
            words = {"key": key, "code": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        else:
            words = {"key": key, "text": key}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **words)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **{k: v for k, v in words.items() if k != "text"})

    def type(self, text):
        for letter in text:
            self.press(letter)

    def screenshot(self, path, whole=False):
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(told["data"]))
