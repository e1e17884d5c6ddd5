"""matrix-nio with one feature after the other: `nio_features.py FEATURE BASE_URL`.

Each makes users of its own. Every check is an assertion.
"""

import asyncio
import contextlib
import sys

from nio import (
    AsyncClient,
    JoinResponse,
    ReceiptEvent,
    RegisterResponse,
    RoomCreateResponse,
    RoomGetStateEventResponse,
    RoomPreset,
    RoomPutStateResponse,
    RoomReadMarkersResponse,
    RoomSendResponse,
    RoomTypingResponse,
    SpaceGetHierarchyResponse,
    SyncResponse,
    TypingNoticeEvent,
    UpdateReceiptMarkerResponse,
)
from nio.api import RelationshipType
from nio.responses import RoomUpgradeResponse


def expect(response, kind):
    assert isinstance(response, kind), f"expected {kind.__name__}, got {response}"
    return response


async def say(client, room_id, text, **content):
    content = {"msgtype": "m.text", "body": text, **content}
    response = await client.room_send(room_id, "m.room.message", content)
    return expect(response, RoomSendResponse).event_id


async def create(client, **options):
    options.setdefault("preset", RoomPreset.public_chat)
    return expect(await client.room_create(**options), RoomCreateResponse).room_id


async def sync(client):
    return expect(await client.sync(timeout=3000), SyncResponse)


@contextlib.asynccontextmanager
async def together(feature, base, **options):
    """Two users in one room, which the first of them made; both are synced."""
    clients = []
    try:
        for name in ("alice", "bob"):
            client = AsyncClient(base, f"nio-{feature}-{name}")
            clients.append(client)
            response = await client.register(client.user, "correct horse battery")
            expect(response, RegisterResponse)
        alice, bob = clients
        room_id = await create(alice, name="Together", **options)
        expect(await bob.join(room_id), JoinResponse)
        await sync(alice)
        await sync(bob)
        yield alice, bob, room_id
    finally:
        for client in clients:
            await client.close()


async def spaces(base):
    async with together("spaces", base) as (alice, bob, room_id):
        space_id = await create(alice, name="Space", space=True)
        hidden_id = await create(alice, name="Hidden", preset=RoomPreset.private_chat)
        for child in (room_id, hidden_id):
            put = await alice.room_put_state(space_id, "m.space.child", {"via": ["hs.test"]}, child)
            expect(put, RoomPutStateResponse)
        for client, names in ((alice, {"Space", "Together", "Hidden"}), (bob, {"Space", "Together"})):
            answer = expect(await client.space_get_hierarchy(space_id), SpaceGetHierarchyResponse)
            assert {room["name"] for room in answer.rooms} == names, answer.rooms
        expect(await bob.join(space_id), JoinResponse)
        await sync(bob)
        assert bob.rooms[space_id].children == {room_id, hidden_id}


async def receipts(base):
    async with together("receipts", base) as (alice, bob, room_id):
        first, second = await say(alice, room_id, "one"), await say(alice, room_id, "two")
        await sync(bob)
        expect(await bob.update_receipt_marker(room_id, first), UpdateReceiptMarkerResponse)
        told = (await sync(alice)).rooms.join[room_id].ephemeral
        [receipt] = [event for event in told if isinstance(event, ReceiptEvent)]
        [receipt] = receipt.receipts
        assert (receipt.event_id, receipt.user_id, receipt.receipt_type) == (first, bob.user_id, "m.read")
        marked = await bob.room_read_markers(room_id, second, private_read_event=second)
        expect(marked, RoomReadMarkersResponse)
        await sync(bob)
        assert bob.rooms[room_id].fully_read_marker == second
        # The private one is told to nobody else.
        await say(bob, room_id, "three")
        told = (await sync(alice)).rooms.join[room_id]
        assert told.timeline.events and not told.ephemeral, told


async def relations(base):
    async with together("relations", base) as (alice, bob, room_id):
        event_id = await say(alice, room_id, "orignal")
        annotation = {"rel_type": "m.annotation", "event_id": event_id, "key": "👍"}
        reaction = {"m.relates_to": annotation}
        reacted = expect(await bob.room_send(room_id, "m.reaction", reaction), RoomSendResponse)
        edit = {"rel_type": "m.replace", "event_id": event_id}
        new = {"msgtype": "m.text", "body": "original"}
        edited = await say(alice, room_id, "* original", **{"m.new_content": new, "m.relates_to": edit})
        for kind, wanted in (
            (RelationshipType.annotation, [reacted.event_id]),
            (RelationshipType.replacement, [edited]),
            (RelationshipType.thread, []),
        ):
            found = [event.event_id async for event in bob.room_get_event_relations(room_id, event_id, kind)]
            assert found == wanted, (kind, found)
        told = await bob.room_get_event(room_id, event_id)
        bundle = told.event.source["unsigned"]["m.relations"]["m.replace"]
        assert bundle["event_id"] == edited, bundle


async def threads(base):
    async with together("threads", base) as (alice, bob, room_id):
        root = await say(alice, room_id, "the root")
        relation = {"rel_type": "m.thread", "event_id": root}
        replies = [await say(bob, room_id, f"reply {number}", **{"m.relates_to": relation}) for number in range(7)]
        listed = [event async for event in alice.room_get_threads(room_id)]
        assert [event.event_id for event in listed] == [root], listed
        bundle = listed[0].source["unsigned"]["m.relations"]["m.thread"]
        assert (bundle["count"], bundle["latest_event"]["event_id"]) == (7, replies[-1]), bundle
        thread = alice.room_get_event_relations(room_id, root, RelationshipType.thread, limit=3)
        assert [event.event_id async for event in thread] == replies[::-1]


async def typing(base):
    async with together("typing", base) as (alice, bob, room_id):
        for state in (True, False):
            expect(await alice.room_typing(room_id, state, timeout=10_000), RoomTypingResponse)
            told = (await sync(bob)).rooms.join[room_id].ephemeral
            [event] = [event for event in told if isinstance(event, TypingNoticeEvent)]
            assert event.users == ([alice.user_id] if state else []), event


async def upgrade(base):
    async with together("upgrade", base, room_version="10", topic="Moving") as (alice, bob, room_id):
        upgraded = expect(await alice.room_upgrade(room_id, "11"), RoomUpgradeResponse)
        await sync(bob)
        expect(await bob.join(upgraded.room_id), JoinResponse)
        await sync(bob)
        after = bob.rooms[upgraded.room_id]
        assert (after.room_version, after.topic, after.name) == ("11", "Moving", "Together")
        state = [
            expect(await bob.room_get_state_event(room, kind), RoomGetStateEventResponse).content
            for room, kind in ((room_id, "m.room.tombstone"), (upgraded.room_id, "m.room.create"))
        ]
        assert state[0]["replacement_room"] == upgraded.room_id, state
        assert state[1]["predecessor"]["room_id"] == room_id, state


if __name__ == "__main__":
    feature, base_url = sys.argv[1:]
    features = (spaces, receipts, typing, relations, threads, upgrade)
    asyncio.run({each.__name__: each for each in features}[feature](base_url))
