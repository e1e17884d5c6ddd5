"""The wire is cut, both sides go on, and the room heals to one state."""

from client import User, eventually
from flows_members import VERSIONS, shared_room


def same_state(host, visitor, room):
    return eventually(
        "one state on both sides", lambda: host.state(room) == visitor.state(room)
    )


def flow_topics_set_on_both_sides(world):
    for home, guest in world.directions():
        for version in VERSIONS:
            room, host, visitor = shared_room(world, home, guest, room_version=version)
            levels = host.content(room, "m.room.power_levels")
            levels["users"] = {**levels.get("users", {}), visitor.id: 50}
            visitor.sees(room, host.set_state(room, "m.room.power_levels", levels))
            world.cut()
            host.set_state(room, "m.room.topic", {"topic": "the host's"})
            visitor.set_state(room, "m.room.topic", {"topic": "the guest's"})
            visitor.set_state(room, "m.room.name", {"name": "the guest's"})
            world.mend()
            visitor.sees(room, host.send(room, "healed, says the host"))
            host.sees(room, visitor.send(room, "healed, says the guest"))
            same_state(host, visitor, room)


def flow_a_ban_against_a_topic(world):
    for home, guest in world.directions():
        for version in VERSIONS:
            room, host, visitor = shared_room(world, home, guest, room_version=version)
            rival = User(guest)
            rival.join(room, home.name)
            host.sees_membership(room, rival.id, "join")
            levels = host.content(room, "m.room.power_levels")
            levels["users"] = {**levels.get("users", {}), rival.id: 50}
            visitor.sees(room, host.set_state(room, "m.room.power_levels", levels))
            world.cut()
            host.act("ban", room, rival.id)
            rival.set_state(room, "m.room.topic", {"topic": "the rival's"})
            world.mend()
            visitor.sees(room, host.send(room, "healed, says the host"))
            host.sees(room, visitor.send(room, "healed, says the guest"))
            same_state(host, visitor, room)
            visitor.sees_membership(room, rival.id, "ban")
            assert host.content(room, "m.room.topic") is None


def flow_many_messages_on_both_sides(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        world.cut()
        ours = [host.send(room, f"host {number}") for number in range(8)]
        theirs = [visitor.send(room, f"guest {number}") for number in range(8)]
        world.mend()
        visitor.sees(room, host.send(room, "healed, says the host"))
        host.sees(room, visitor.send(room, "healed, says the guest"))
        wanted = {*ours, *theirs}
        for user in (host, visitor):
            eventually(
                "all of both",
                lambda: wanted <= {event["event_id"] for event in user.history(room)},
            )
        same_state(host, visitor, room)
