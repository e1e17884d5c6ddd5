"""The client-server API, as far as the flows use it, for a user of either server."""

import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request

WAIT_SECONDS = 60
_numbers = itertools.count(1)


class Refused(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status, body):
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body
        self.code = body.get("errcode") if isinstance(body, dict) else None


def quote(text):
    return urllib.parse.quote(text, safe="")


def call(server, method, path, body=None, token=None, timeout=90):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server.url + path, data, method=method)
    request.add_header("Content-Type", "application/json")
    if token:
        request.add_header("Authorization", "Bearer " + token)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        text = error.read()
        try:
            raise Refused(error.code, json.loads(text)) from None
        except ValueError:
            raise Refused(error.code, text.decode(errors="replace")) from None


def eventually(what, condition):
    """Asks again until the condition holds; its value then."""
    deadline, pause = time.monotonic() + WAIT_SECONDS, 0.05
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"in {WAIT_SECONDS} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


class User:
    """A fresh user of a server."""

    def __init__(self, server, localpart=None):
        self.server = server
        localpart = localpart or f"user{next(_numbers)}"
        body = {
            "username": localpart,
            "password": "correct horse battery",
            "auth": {"type": "m.login.dummy"},
        }
        made = call(server, "POST", "/_matrix/client/v3/register", body)
        self.id, self.token, self.device = made["user_id"], made["access_token"], made["device_id"]

    def ask(self, method, path, body=None, **query):
        path = "/_matrix/client/v3" + path
        if query:
            path += "?" + urllib.parse.urlencode(query, doseq=True)
        return call(self.server, method, path, body, self.token)

    # Rooms

    def create(self, **body):
        return self.ask("POST", "/createRoom", body)["room_id"]

    def join(self, room, *via):
        query = {"via": via, "server_name": via} if via else {}
        return self.ask("POST", f"/join/{quote(room)}", {}, **query)["room_id"]

    def knock(self, room, *via):
        query = {"via": via, "server_name": via}
        return self.ask("POST", f"/knock/{quote(room)}", {"reason": "please"}, **query)

    def act(self, act, room, user=None, **more):
        body = dict(more, user_id=user) if user else more
        return self.ask("POST", f"/rooms/{quote(room)}/{act}", body)

    def send(self, room, text, kind="m.room.message", **content):
        content = content or {"msgtype": "m.text", "body": text}
        path = f"/rooms/{quote(room)}/send/{kind}/t{next(_numbers)}"
        return self.ask("PUT", path, content)["event_id"]

    def redact(self, room, event):
        path = f"/rooms/{quote(room)}/redact/{quote(event)}/t{next(_numbers)}"
        return self.ask("PUT", path, {})["event_id"]

    def set_state(self, room, kind, content, key=""):
        path = f"/rooms/{quote(room)}/state/{kind}/{quote(key)}"
        return self.ask("PUT", path, content)["event_id"]

    def state(self, room):
        """Event ids of current state, by type and state key."""
        events = self.ask("GET", f"/rooms/{quote(room)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def content(self, room, kind, key=""):
        try:
            return self.ask("GET", f"/rooms/{quote(room)}/state/{kind}/{quote(key)}")
        except Refused:
            return None

    def membership(self, room, user):
        return (self.content(room, "m.room.member", user) or {}).get("membership")

    def event(self, room, event):
        try:
            return self.ask("GET", f"/rooms/{quote(room)}/event/{quote(event)}")
        except Refused:
            return None

    def history(self, room, pages=100, limit=50):
        """Events of a room, the newest first, without what comes twice."""
        found, token = [], None
        for _ in range(pages):
            query = {"dir": "b", "limit": limit}
            if token:
                query["from"] = token
            page = self.ask("GET", f"/rooms/{quote(room)}/messages", **query)
            found += page["chunk"]
            token = page.get("end")
            if not token:
                break
        return found

    def sync(self, since=None, timeout=0, **query):
        query["timeout"] = timeout
        if since:
            query["since"] = since
        return self.ask("GET", "/sync", **query)

    def sees(self, room, event):
        return eventually(f"{self.id} sees {event}", lambda: self.event(room, event))

    def sees_membership(self, room, user, membership):
        eventually(
            f"{self.id} sees {user} as {membership} and not {self.membership(room, user)}",
            lambda: self.membership(room, user) == membership,
        )

    def told(self, what, find, since=None):
        """Follows /sync, from the beginning or a token, until `find` has something
        in an answer."""
        # What was left before is shown, too, for those who look for that.
        with_left = json.dumps({"room": {"include_leave": True}})
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            answer = self.sync(since, timeout=0 if since is None else 1000, filter=with_left)
            found = find(answer)
            if found:
                return found
            since = answer["next_batch"]
        raise AssertionError(f"{self.id} was not told: {what}")

    def listens(self, room):
        """Follows /sync until the room is there; the token from which to go on.
        Synapse leaves out a room of which it has not all state yet."""
        joined = lambda answer: (
            room in answer.get("rooms", {}).get("join", {}) and answer["next_batch"]
        )
        return self.told(f"{room} is joined", joined)

    def put_out(self, room, membership):
        """Waits for a kick or ban to be told."""
        self.told(f"{membership} of {room}", lambda answer: self._left_as(answer, room, membership))

    def _left_as(self, answer, room, membership):
        left = answer.get("rooms", {}).get("leave", {}).get(room, {})
        events = [*left.get("timeline", {}).get("events", [])]
        events += left.get("state", {}).get("events", [])
        return any(
            event["type"] == "m.room.member"
            and event["state_key"] == self.id
            and event["content"]["membership"] == membership
            for event in events
        )

    def invited(self, room):
        """The stripped state of an invite that came."""
        invites = lambda answer: answer.get("rooms", {}).get("invite", {}).get(room)
        return self.told(f"invite to {room}", invites)["invite_state"]["events"]
