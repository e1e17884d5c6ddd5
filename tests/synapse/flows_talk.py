"""What is said and shown: messages, redactions, typing, receipts, presence, and
what servers ask one another about users and rooms."""

from client import Refused, User, eventually, quote
from flows_members import shared_room


def flow_messages_both_ways(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        for number in range(5):
            visitor.sees(room, host.send(room, f"from the host {number}"))
            host.sees(room, visitor.send(room, f"from the guest {number}"))
        said = lambda user: [
            event["event_id"] for event in user.history(room)
            if event["type"] == "m.room.message"
        ]
        assert said(host) == said(visitor), (said(host), said(visitor))


def flow_many_messages_at_once(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        sent = [host.send(room, f"message {number}") for number in range(120)]
        visitor.sees(room, sent[-1])
        wanted = set(sent)
        eventually(
            "all of them are there",
            lambda: wanted <= {event["event_id"] for event in visitor.history(room)},
        )
        heard = [e["event_id"] for e in reversed(visitor.history(room)) if e["event_id"] in wanted]
        assert heard == sent


def flow_state_both_ways(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        visitor.sees(room, host.set_state(room, "m.room.topic", {"topic": "the host's"}))
        eventually(
            "the topic",
            lambda: visitor.content(room, "m.room.topic") == host.content(room, "m.room.topic"),
        )


def flow_redactions(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        for author, other in ((host, visitor), (visitor, host)):
            event = author.send(room, "to be regretted")
            assert other.sees(room, event)["content"]
            author.redact(room, event)
            eventually("redacted", lambda: not other.event(room, event)["content"])


def flow_relations(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        event = host.send(room, "like this")
        visitor.sees(room, event)
        relates = {"rel_type": "m.annotation", "event_id": event, "key": "+1"}
        reaction = visitor.send(room, "", kind="m.reaction", **{"m.relates_to": relates})
        host.sees(room, reaction)
        page = call_v1(host, f"/rooms/{quote(room)}/relations/{quote(event)}/m.annotation")
        assert [found["event_id"] for found in page["chunk"]] == [reaction]


def call_v1(user, path):
    from client import call

    return call(user.server, "GET", "/_matrix/client/v1" + path, token=user.token)


def flow_typing(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        for typist, watcher in ((host, visitor), (visitor, host)):
            path = f"/rooms/{quote(room)}/typing/{quote(typist.id)}"
            # Of what is over in a moment only those hear who listen.
            since = watcher.listens(room)
            typist.ask("PUT", path, {"typing": True, "timeout": 30000})
            watcher.told("typing", lambda answer: typing(answer, room, typist.id), since)
            typist.ask("PUT", path, {"typing": False})


def ephemeral(answer, room, kind):
    joined = answer.get("rooms", {}).get("join", {}).get(room, {})
    events = joined.get("ephemeral", {}).get("events", [])
    return [event["content"] for event in events if event["type"] == kind]


def typing(answer, room, user):
    return any(user in content["user_ids"] for content in ephemeral(answer, room, "m.typing"))


def flow_receipts(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        for author, reader in ((host, visitor), (visitor, host)):
            event = author.send(room, "read this")
            reader.sees(room, event)
            reader.ask("POST", f"/rooms/{quote(room)}/receipt/m.read/{quote(event)}", {})
            author.told("receipt", lambda answer: receipt(answer, room, event, reader.id))


def receipt(answer, room, event, user):
    contents = ephemeral(answer, room, "m.receipt")
    return any(user in content.get(event, {}).get("m.read", {}) for content in contents)


def flow_presence(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        for shown, watcher in ((host, visitor), (visitor, host)):
            status = f"busy with {room}"
            path = f"/presence/{quote(shown.id)}/status"
            shown.ask("PUT", path, {"presence": "online", "status_msg": status})
            watcher.told("presence", lambda answer: presence(answer, shown.id, status))


def presence(answer, user, status):
    events = answer.get("presence", {}).get("events", [])
    return any(
        event["sender"] == user and event["content"].get("status_msg") == status
        for event in events
    )


def flow_profiles(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        path = f"/profile/{quote(host.id)}/displayname"
        host.ask("PUT", path, {"displayname": "Her Majesty"})
        eventually(
            "the name as the server tells it",
            lambda: visitor.ask("GET", f"/profile/{quote(host.id)}").get("displayname")
            == "Her Majesty",
        )
        eventually(
            "the name in the room",
            lambda: (visitor.content(room, "m.room.member", host.id) or {}).get("displayname")
            == "Her Majesty",
        )


def flow_directory(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        localpart = "dir-" + host.id[1:].split(":")[0]
        room = host.create(preset="public_chat", room_alias_name=localpart)
        alias = quote(f"#{localpart}:{home.name}")
        found = visitor.ask("GET", f"/directory/room/{alias}")
        assert found["room_id"] == room and home.name in found["servers"], found
        try:
            visitor.ask("GET", "/directory/room/" + quote(f"#none-{localpart}:{home.name}"))
        except Refused as refused:
            assert refused.status == 404, refused
        else:
            raise AssertionError("an alias that is not there was found")


def flow_public_rooms(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        name = f"Market of {host.id}"
        room = host.create(preset="public_chat", visibility="public", name=name)
        listed = lambda: visitor.ask("GET", "/publicRooms", server=home.name, limit=100)["chunk"]
        eventually("listed", lambda: any(found["room_id"] == room for found in listed()))
        body = {"filter": {"generic_search_term": name}, "limit": 10}
        found = visitor.ask("POST", "/publicRooms", body, server=home.name)["chunk"]
        assert [entry["room_id"] for entry in found] == [room], found
