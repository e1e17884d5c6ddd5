"""What was said before somebody came: backfill, visibility, servers that were away."""

from client import User, eventually
from flows_members import public_room, shared_room

MESSAGES = 500


def flow_backfill(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        room = public_room(host)
        sent = [host.send(room, f"message {number}") for number in range(MESSAGES)]
        visitor.join(room, home.name)
        wanted = set(sent)
        eventually("all of the history", lambda: heard(visitor, room, wanted) == sent)


def heard(user, room, wanted):
    events = [event["event_id"] for event in reversed(user.history(room))]
    return [event for event in events if event in wanted]


def flow_history_is_hidden_from_who_came_late(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        hidden = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room = public_room(host, initial_state=[hidden])
        before = host.send(room, "before you came")
        visitor.join(room, home.name)
        host.sees_membership(room, visitor.id, "join")
        after = host.send(room, "after you came")
        visitor.sees(room, after)
        seen = [event["event_id"] for event in visitor.history(room)]
        assert after in seen and before not in seen, seen


def flow_a_server_that_was_away_catches_up(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        first = host.send(room, "before")
        visitor.sees(room, first)
        guest.stop()
        sent = [host.send(room, f"while you were away {number}") for number in range(30)]
        guest.start()
        last = host.send(room, "you are back")
        visitor.sees(room, last)
        wanted = {*sent, last}
        eventually("what was missed", lambda: heard(visitor, room, wanted) == [*sent, last])


def flow_a_killed_engram_loses_nothing(world):
    room, host, visitor = shared_room(world, world.engram, world.synapse)
    sent = [host.send(room, f"mine {number}") for number in range(20)]
    theirs = [visitor.send(room, f"theirs {number}") for number in range(20)]
    host.sees(room, theirs[-1])
    world.engram.kill()
    theirs += [visitor.send(room, f"theirs while you were dead {number}") for number in range(20)]
    world.engram.start()
    eventually("all of ours", lambda: heard(visitor, room, set(sent)) == sent)
    eventually("all of theirs", lambda: heard(host, room, set(theirs)) == theirs)
