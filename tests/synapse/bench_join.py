#!/usr/bin/env python3
"""How long a large room takes to be joined: by Engram and by Synapse, one run.

`bench_join.py ENGRAM_BINARY [MEMBERS]` fills a room of one Engram with guests
(10,000 unless told otherwise), then has a user of another Engram and one of a
Synapse join it, and prints the seconds until they have all of it, and their
ratio. The binary should be an
optimised one. Not a test: it takes minutes.
"""

import concurrent.futures
import pathlib
import sys
import tempfile
import time

from certificates import Authority
from client import User, call, quote
from homeservers import Engram, Synapse, free_port

AT_A_TIME = 8


class Guest:
    """An account without a password, which costs its server no hashing."""

    def __init__(self, server):
        path = "/_matrix/client/v3/register?kind=guest"
        self.server, self.token = server, call(server, "POST", path, {})["access_token"]

    def join(self, room):
        call(self.server, "POST", f"/_matrix/client/v3/join/{quote(room)}", {}, self.token)


def engram(binary, folder, number, authority, peer):
    """A server whose name is its address, so that everybody finds it."""
    host = f"127.80.{number}.1"
    server = Engram(binary, "", folder / f"engram{number}", host, authority, peer)
    server.name = "%s:%d" % server.federation
    server.settings["SERVER_NAME"] = server.name
    server.settings["REGISTRATION__GUESTS"] = "true"
    return server


def main(binary, members=10_000):
    folder = pathlib.Path(tempfile.mkdtemp(prefix="engram-join-"))
    authority = Authority(folder)
    nobody = ("nobody.test", ("127.0.0.1", free_port("127.0.0.1")))
    synapse_host = "127.80.9.1"
    home = engram(binary, folder, 1, authority, nobody)
    away = engram(binary, folder, 2, authority, nobody)
    synapse = Synapse("", folder / "synapse", synapse_host, authority, named_by_address=True)
    for server in (home, away):
        server.settings["FEDERATION__DENY_ADDRESSES"] = "192.0.2.0/24"
    servers = [home, away, synapse]
    try:
        for server in servers:
            server.start()
        host = User(home)
        access = {"type": "m.room.guest_access", "content": {"guest_access": "can_join"}}
        room = host.create(preset="public_chat", initial_state=[access])
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
            guests = pool.map(lambda _: Guest(home).join(room), range(int(members) - 1))
            for number, _ in enumerate(guests, 1):
                if number % 1000 == 0:
                    print(f"{number} members after {time.monotonic() - began:.0f} s", flush=True)
        took = {}
        for name, server in (("Engram", away), ("Synapse", synapse)):
            user = User(server)
            began = time.monotonic()
            user.join(room, home.name)
            answered = time.monotonic() - began
            # Synapse answers before it has the members, and waits for them here.
            joined = len(user.ask("GET", f"/rooms/{quote(room)}/joined_members")["joined"])
            took[name] = time.monotonic() - began
            print(
                f"{name} answered after {answered:.2f} s,"
                f" and had all of {joined} members after {took[name]:.2f} s",
                flush=True,
            )
        print(f"Synapse takes {took['Synapse'] / took['Engram']:.1f} times as long")
    finally:
        for server in servers:
            if server.process:
                server.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
