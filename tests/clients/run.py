#!/usr/bin/env python3
"""Real clients against a real server, with a restart in between.

`run.py ENGRAM_BINARY` starts the server on free loopback ports with a fresh
data folder, runs each client's `before` and one feature after the other, stops
the server by SIGTERM, starts it again at the same address and runs `after`; one
client lives through that. Prints a line per step and `N passed, N failed`.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS = 60
STEP_SECONDS = 120


class Server:
    """One `engram serve` on ports that the system chooses."""

    def __init__(self, binary, data_dir):
        self.binary, self.data_dir = binary, pathlib.Path(data_dir)
        self.process, self.log = None, open(self.data_dir / "server.log", "ab")
        # Where it was once, there it stays: clients reconnect to it.
        self.address = "127.0.0.1:0"

    def start(self):
        addresses = self.data_dir / "data" / "run" / "addresses.json"
        addresses.unlink(missing_ok=True)
        environment = dict(
            os.environ,
            ENGRAM__SERVER_NAME="hs.test",
            ENGRAM__DATA_DIR=str(self.data_dir / "data"),
            ENGRAM__CLIENT__BIND=self.address,
            ENGRAM__TELEMETRY__METRICS_BIND="127.0.0.1:0",
            ENGRAM__REGISTRATION__OPEN="true",
            ENGRAM__RATE_LIMITS__ENABLED="false",
        )
        self.process = subprocess.Popen(
            [self.binary, "serve"], env=environment, stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}")
            try:
                self.address = json.loads(addresses.read_text())["client"]
                return "http://" + self.address
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.05)
        raise RuntimeError("the server did not come up")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        if code != 0:
            raise RuntimeError(f"the server ended with {code} after SIGTERM")


PYTHON = os.environ.get("CLIENT_PYTHON", sys.executable)
NODE = os.environ.get("CLIENT_NODE", "node")

# Each takes a phase, the server's address and a file for what it remembers.
CHATS = {
    "matrix-nio": [PYTHON, str(HERE / "nio_chat.py")],
    "matrix-js-sdk": [NODE, str(HERE / "js_sdk_chat.mjs")],
}
# Each takes one of these features and the server's address.
FEATURES = {
    "matrix-nio": (
        [PYTHON, str(HERE / "nio_features.py")],
        ["spaces", "receipts", "typing", "relations", "threads", "upgrade"],
    ),
    "matrix-js-sdk": (
        [NODE, str(HERE / "js_sdk_features.mjs")],
        ["spaces", "receipts", "typing", "relations", "threads", "search", "upgrade"],
    ),
}

# Stays through the restart; see rust_sdk/src/main.rs.
RUST_SDK = HERE / "rust_sdk" / "target" / "debug" / "rust-sdk-chat"


class Reconnecting:
    """A client that is told by a line on its standard input when the server is back."""

    def __init__(self, name, command):
        self.name, self.begun = name, time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.timer = threading.Timer(STEP_SECONDS, self.process.kill)
        self.timer.start()
        self.is_ready = self.process.stdout.readline().strip() == "ready"

    def go_on(self):
        try:
            out, err = self.process.communicate("the server is back\n")
        except BrokenPipeError:
            out, err = "", self.process.stderr.read()
        self.timer.cancel()
        ok = self.is_ready and self.process.returncode == 0
        took = time.monotonic() - self.begun
        print(f"{self.name}: {'ok' if ok else 'FAILED'} ({took:.1f} s)", flush=True)
        if not ok:
            print(out[-4000:], err[-4000:], sep="\n", flush=True)
        return ok


def run(name, command):
    begun = time.monotonic()
    try:
        done = subprocess.run(
            command, timeout=STEP_SECONDS, capture_output=True, text=True, check=False
        )
        ok, printed = done.returncode == 0, (done.stdout, done.stderr)
    except subprocess.TimeoutExpired as late:
        ok, printed = False, [str(late)]
    print(f"{name}: {'ok' if ok else 'FAILED'} ({time.monotonic() - begun:.1f} s)", flush=True)
    if not ok:
        print(*(text[-4000:] for text in printed), sep="\n", flush=True)
    return ok


def run_phase(phase, base, states):
    return [
        run(f"{name} {phase}", [*command, phase, base, str(states / f"{name}.json")])
        for name, command in CHATS.items()
    ]


def run_features(base):
    return [
        run(f"{name} {feature}", [*command, feature, base])
        for name, (command, features) in FEATURES.items()
        for feature in features
    ]


def main():
    with tempfile.TemporaryDirectory(prefix="engram-clients-") as folder:
        folder = pathlib.Path(folder)
        server = Server(sys.argv[1], folder)
        base = server.start()
        results = run_phase("before", base, folder)
        results += run_features(base)
        rust_sdk = Reconnecting("matrix-rust-sdk through the restart", [str(RUST_SDK), base])
        server.stop()
        base = server.start()
        results += run_phase("after", base, folder)
        results.append(rust_sdk.go_on())
        server.stop()
        if not all(results):
            print((folder / "server.log").read_text(errors="replace")[-6000:])
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
