"""matrix-nio talks through Engram: `nio_chat.py before|after BASE_URL STATE_FILE`.

`before` registers two users who chat; `after` runs when the server was
restarted and carries on from the stored tokens. Every check is an assertion.
"""

import asyncio
import json
import sys

from nio import (
    AsyncClient,
    JoinResponse,
    LoginResponse,
    RegisterResponse,
    RoomCreateResponse,
    RoomInviteResponse,
    RoomMessagesResponse,
    RoomRedactResponse,
    RoomSendResponse,
    SyncResponse,
)
from nio.api import MessageDirection

TIMELINE_FILTER = {"room": {"timeline": {"limit": 50}}}


def expect(response, kind):
    assert isinstance(response, kind), f"expected {kind.__name__}, got {response}"
    return response


async def say(client, room_id, text):
    content = {"msgtype": "m.text", "body": text}
    response = await client.room_send(room_id, "m.room.message", content)
    return expect(response, RoomSendResponse).event_id


def bodies(events):
    return [event.body for event in events if hasattr(event, "body")]


async def before(base, state_file):
    alice, bob = AsyncClient(base, "nio-alice"), AsyncClient(base, "nio-bob")
    try:
        for client, name in ((alice, "nio-alice"), (bob, "nio-bob")):
            expect(await client.register(name, "correct horse battery"), RegisterResponse)
        # A second login by password on the same device: the old token ends.
        first_token = alice.access_token
        expect(await alice.login("correct horse battery"), LoginResponse)
        assert alice.access_token != first_token

        room_id = expect(await alice.room_create(name="Engrams", topic="traces"), RoomCreateResponse).room_id
        expect(await alice.room_invite(room_id, bob.user_id), RoomInviteResponse)
        invited = expect(await bob.sync(timeout=0, full_state=True), SyncResponse)
        assert room_id in invited.rooms.invite, "bob sees no invite"
        expect(await bob.join(room_id), JoinResponse)

        sent = [await say(alice, room_id, f"message {number}") for number in range(30)]
        synced = expect(await bob.sync(timeout=3000, sync_filter=TIMELINE_FILTER), SyncResponse)
        seen = bodies(synced.rooms.join[room_id].timeline.events)
        assert seen == [f"message {number}" for number in range(30)], seen
        assert bob.rooms[room_id].name == "Engrams"
        assert set(bob.rooms[room_id].users) == {alice.user_id, bob.user_id}

        # A long poll wakes up for a message sent while it waits.
        waiting = asyncio.create_task(bob.sync(timeout=20000))
        await asyncio.sleep(0.3)
        last = await say(alice, room_id, "wake up")
        woken = expect(await asyncio.wait_for(waiting, 5), SyncResponse)
        assert bodies(woken.rooms.join[room_id].timeline.events) == ["wake up"]

        # Backwards through the whole room, ten at a time.
        token, paged = synced.next_batch, []
        while token:
            page = expect(
                await bob.room_messages(room_id, start=token, limit=10, direction=MessageDirection.back),
                RoomMessagesResponse,
            )
            paged += page.chunk
            token = page.end if page.chunk else None
        ids = [event.event_id for event in paged if hasattr(event, "body")]
        assert ids == sent[::-1], "pagination differs from what was sent"

        expect(await alice.room_redact(room_id, sent[3], reason="typo"), RoomRedactResponse)
        context = await bob.room_get_event(room_id, sent[3])
        assert type(context.event).__name__ == "RedactedEvent", context
        with open(state_file, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "room": room_id,
                    "last": last,
                    "sent": sent,
                    "since": woken.next_batch,
                    "users": {
                        c.user_id: [c.device_id, c.access_token] for c in (alice, bob)
                    },
                },
                file,
            )
    finally:
        await alice.close()
        await bob.close()


async def after(base, state_file):
    with open(state_file, encoding="utf-8") as file:
        state = json.load(file)
    clients = []
    for user_id, (device_id, token) in state["users"].items():
        client = AsyncClient(base, user_id)
        client.restore_login(user_id, device_id, token)
        clients.append(client)
    alice, bob = clients
    try:
        # Bob's token from before the restart gives exactly what came since: the redaction.
        synced = expect(await bob.sync(since=state["since"], timeout=0), SyncResponse)
        since = synced.rooms.join[state["room"]].timeline.events
        assert [type(event).__name__ for event in since] == ["RedactionEvent"], since
        again = await say(alice, state["room"], "still here")
        synced = expect(await bob.sync(timeout=3000), SyncResponse)
        events = synced.rooms.join[state["room"]].timeline.events
        assert [event.event_id for event in events] == [again], events
    finally:
        await alice.close()
        await bob.close()


if __name__ == "__main__":
    phase, base_url, path = sys.argv[1:]
    asyncio.run({"before": before, "after": after}[phase](base_url, path))
