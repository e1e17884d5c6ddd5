#!/usr/bin/env python3
"""Engram and Synapse in one federation.

`run.py ENGRAM_BINARY [FLOW...]` starts both on loopback addresses, with
certificates of its own and a wire between them that can be cut, and runs each
flow (a function of the modules below whose name begins with `flow_`), or those
whose name contains one of the given texts. Prints a line per flow and
`N passed, N failed`.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import time
import traceback

import flows_history
import flows_members
import flows_partition
import flows_talk
from certificates import Authority
from homeservers import Engram, Synapse
from wire import Wire

FLOWS = [flows_members, flows_talk, flows_history, flows_partition]


class World:
    """Both servers, and the wires that lead to each."""

    def __init__(self, binary, folder):
        # Each process of this test has an address of its own in 127.0.0.0/8.
        number = os.getpid() & 0xFFFF
        host = f"127.{64 + (number >> 12)}.{(number >> 4) & 0xFF}.{(number & 0xF) + 1}"
        authority = Authority(folder)
        self.to_synapse, self.to_engram = Wire(host), Wire(host)
        # Synapse looks names up in the DNS, so Engram's is the address of its wire.
        engram_name = "%s:%d" % self.to_engram.address
        self.synapse = Synapse("synapse.test", folder / "synapse", host, authority)
        peer = (self.synapse.name, self.to_synapse.address)
        self.engram = Engram(binary, engram_name, folder / "engram", host, authority, peer)
        self.to_synapse.target = self.synapse.federation
        self.to_engram.target = self.engram.federation

    def start(self):
        self.synapse.start()
        self.engram.start()

    def stop(self):
        for server in (self.engram, self.synapse):
            if server.process and server.process.poll() is None:
                server.kill()

    def directions(self):
        """Each server once as the home of what happens, with the other as guest."""
        return [(self.engram, self.synapse), (self.synapse, self.engram)]

    def cut(self):
        self.to_synapse.cut()
        self.to_engram.cut()

    def mend(self):
        self.to_synapse.mend()
        self.to_engram.mend()


def flows(wanted):
    for module in FLOWS:
        for name, flow in vars(module).items():
            if name.startswith("flow_") and (
                not wanted or any(text in name for text in wanted)
            ):
                yield name.removeprefix("flow_"), flow


def main(binary, *wanted):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="engram-synapse-"))
    world = World(pathlib.Path(binary).resolve(), folder)
    passed = failed = 0
    try:
        world.start()
        for name, flow in flows(wanted):
            began = time.monotonic()
            try:
                flow(world)
            except Exception:
                failed += 1
                print(f"FAILED {name}", flush=True)
                traceback.print_exc()
            else:
                passed += 1
                print(f"ok     {name} ({time.monotonic() - began:.1f} s)", flush=True)
            finally:
                world.mend()
    finally:
        world.stop()
    print(f"{passed} passed, {failed} failed")
    if failed or not passed:
        print(f"logs are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
