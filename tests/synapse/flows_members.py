"""Who is in a room: invites, joins, leaves, kicks, bans, knocks, restricted rooms."""

from client import Refused, User, eventually

VERSIONS = ["10", "11", "12"]


def public_room(user, **body):
    return user.create(preset="public_chat", **body)


def shared_room(world, home, guest, **body):
    """A public room of a user of `home` that one of `guest` has joined."""
    host, visitor = User(home), User(guest)
    room = public_room(host, **body)
    visitor.join(room, home.name)
    host.sees_membership(room, visitor.id, "join")
    return room, host, visitor


def flow_join_of_every_version(world):
    for home, guest in world.directions():
        for version in VERSIONS:
            room, host, visitor = shared_room(world, home, guest, room_version=version)
            assert visitor.state(room) == host.state(room), version
            joined = visitor.ask("GET", f"/rooms/{room}/joined_members")["joined"]
            assert set(joined) == {host.id, visitor.id}, joined


def flow_join_by_alias(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        localpart = "alias-" + host.id[1:].split(":")[0]
        room = public_room(host, room_alias_name=localpart)
        assert visitor.join(f"#{localpart}:{home.name}") == room
        host.sees_membership(room, visitor.id, "join")


def flow_invite_and_accept(world):
    for home, guest in world.directions():
        for version in VERSIONS:
            host, visitor = User(home), User(guest)
            room = host.create(preset="private_chat", name="Secret", room_version=version)
            host.act("invite", room, visitor.id)
            stripped = visitor.invited(room)
            assert any(event["type"] == "m.room.create" for event in stripped), stripped
            assert any(event.get("state_key") == visitor.id for event in stripped), stripped
            visitor.join(room, home.name)
            host.sees_membership(room, visitor.id, "join")
            assert visitor.state(room) == host.state(room)


def flow_invite_at_creation(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        room = host.create(preset="trusted_private_chat", invite=[visitor.id], is_direct=True)
        visitor.invited(room)
        visitor.join(room, home.name)
        host.sees_membership(room, visitor.id, "join")


def flow_invite_and_reject(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        room = host.create(preset="private_chat")
        host.act("invite", room, visitor.id)
        visitor.invited(room)
        visitor.act("leave", room)
        host.sees_membership(room, visitor.id, "leave")


def flow_invite_is_withdrawn(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        room = host.create(preset="private_chat")
        host.act("invite", room, visitor.id)
        visitor.invited(room)
        host.act("kick", room, visitor.id)
        host.sees_membership(room, visitor.id, "leave")
        try:
            visitor.join(room, home.name)
        except Refused as refused:
            assert refused.status == 403, refused
        else:
            raise AssertionError("joined without an invite")


def flow_leave_and_come_back(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        visitor.act("leave", room)
        host.sees_membership(room, visitor.id, "leave")
        missed = host.send(room, "said while nobody of yours was here")
        visitor.join(room, home.name)
        host.sees_membership(room, visitor.id, "join")
        assert visitor.state(room) == host.state(room)
        again = host.send(room, "welcome back")
        visitor.sees(room, again)
        heard = lambda: {event["event_id"] for event in visitor.history(room)}
        eventually("what was said in between", lambda: {missed, again} <= heard())


def flow_kick_and_ban(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        host.act("kick", room, visitor.id, reason="enough")
        visitor.put_out(room, "leave")
        visitor.join(room, home.name)
        host.sees_membership(room, visitor.id, "join")
        host.act("ban", room, visitor.id)
        visitor.put_out(room, "ban")
        try:
            visitor.join(room, home.name)
        except Refused as refused:
            assert refused.status == 403, refused
        else:
            raise AssertionError("joined while banned")
        host.act("unban", room, visitor.id)
        eventually("joins once the ban is gone", lambda: joins(visitor, room, home.name))


def joins(user, room, *via):
    try:
        return user.join(room, *via)
    except Refused:
        return None


def flow_power_given_to_a_guest(world):
    for home, guest in world.directions():
        room, host, visitor = shared_room(world, home, guest)
        other = User(guest)
        other.join(room, home.name)
        levels = host.content(room, "m.room.power_levels")
        levels["users"] = {**levels.get("users", {}), visitor.id: 60}
        host.set_state(room, "m.room.power_levels", levels)
        eventually("has power", lambda: can(lambda: visitor.act("kick", room, other.id)))
        host.sees_membership(room, other.id, "leave")


def can(act):
    try:
        act()
        return True
    except Refused:
        return False


def flow_knock(world):
    for home, guest in world.directions():
        host, visitor = User(home), User(guest)
        rules = {"type": "m.room.join_rules", "content": {"join_rule": "knock"}}
        room = host.create(preset="private_chat", name="Door", initial_state=[rules])
        visitor.knock(room, home.name)
        host.sees_membership(room, visitor.id, "knock")
        knocks = lambda answer: answer.get("rooms", {}).get("knock", {}).get(room)
        stripped = visitor.told("own knock", knocks)["knock_state"]["events"]
        assert any(event["type"] == "m.room.name" for event in stripped), stripped
        host.act("invite", room, visitor.id)
        visitor.invited(room)
        visitor.join(room, home.name)
        host.sees_membership(room, visitor.id, "join")


def flow_restricted_room(world):
    for home, guest in world.directions():
        space, host, visitor = shared_room(world, home, guest)
        stranger = User(guest)
        rules = {
            "join_rule": "restricted",
            "allow": [{"type": "m.room_membership", "room_id": space}],
        }
        for version in VERSIONS:
            state = {"type": "m.room.join_rules", "content": rules}
            room = host.create(
                preset="private_chat", room_version=version, initial_state=[state]
            )
            visitor.join(room, home.name)
            host.sees_membership(room, visitor.id, "join")
            member = host.content(room, "m.room.member", visitor.id)
            assert member["join_authorised_via_users_server"] == host.id, member
            assert not joins(stranger, room, home.name)
