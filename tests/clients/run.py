#!/usr/bin/env python3
"""Real clients against a real server, with a restart in between.

`run.py ENGRAM_BINARY` starts the server on free loopback ports with a fresh
data folder, runs each client's `before`, stops the server by SIGTERM, starts
it again and runs `after`. Prints a line per step and `N passed, N failed`.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
START_SECONDS = 60
STEP_SECONDS = 120


class Server:
    """One `engram serve` on ports that the system chooses."""

    def __init__(self, binary, data_dir):
        self.binary, self.data_dir = binary, pathlib.Path(data_dir)
        self.process, self.log = None, open(self.data_dir / "server.log", "ab")

    def start(self):
        addresses = self.data_dir / "data" / "run" / "addresses.json"
        addresses.unlink(missing_ok=True)
        environment = dict(
            os.environ,
            ENGRAM__SERVER_NAME="hs.test",
            ENGRAM__DATA_DIR=str(self.data_dir / "data"),
            ENGRAM__CLIENT__BIND="127.0.0.1:0",
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
                return "http://" + json.loads(addresses.read_text())["client"]
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.05)
        raise RuntimeError("the server did not come up")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=30)
        if code != 0:
            raise RuntimeError(f"the server ended with {code} after SIGTERM")


CLIENTS = {
    "matrix-nio": [os.environ.get("CLIENT_PYTHON", sys.executable), str(HERE / "nio_chat.py")],
    "matrix-js-sdk": [os.environ.get("CLIENT_NODE", "node"), str(HERE / "js_sdk_chat.mjs")],
}


def run_phase(phase, base, states):
    results = []
    for name, command in CLIENTS.items():
        begun = time.monotonic()
        done = subprocess.run(
            [*command, phase, base, str(states / f"{name}.json")],
            timeout=STEP_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
        ok = done.returncode == 0
        print(f"{name} {phase}: {'ok' if ok else 'FAILED'} ({time.monotonic() - begun:.1f} s)", flush=True)
        if not ok:
            print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", flush=True)
        results.append(ok)
    return results


def main():
    with tempfile.TemporaryDirectory(prefix="engram-clients-") as folder:
        folder = pathlib.Path(folder)
        server = Server(sys.argv[1], folder)
        results = run_phase("before", server.start(), folder)
        server.stop()
        results += run_phase("after", server.start(), folder)
        server.stop()
        if not all(results):
            print((folder / "server.log").read_text(errors="replace")[-6000:])
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
