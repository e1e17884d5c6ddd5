// matrix-js-sdk with one feature after the other:
// `js_sdk_features.mjs FEATURE BASE_URL`. Each makes users of its own.
// Every check is an assertion.

import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";

import { client, message, register, start, waitFor } from "./js_sdk.mjs";

const [feature, baseUrl] = process.argv.slice(2);
const OPTIONS = { threadSupport: true };

// Two users in one room, which the first of them made.
async function together(options = {}) {
  const users = await Promise.all(["alice", "bob"].map((name) => register(baseUrl, `js-${feature}-${name}`)));
  const [alice, bob] = await Promise.all(users.map((user) => start(baseUrl, user, OPTIONS)));
  const { room_id } = await alice.createRoom({ preset: "public_chat", name: "Together", ...options });
  await enter(bob, room_id);
  await seen(alice, (room) => room.getMember(bob.getUserId())?.membership === "join", room_id);
  return { alice, bob, room_id };
}

const userOf = (one) => ({
  user_id: one.getUserId(),
  device_id: one.getDeviceId(),
  access_token: one.getAccessToken(),
});

// Joins, and waits until the client's copy of the room is there.
async function enter(one, room_id) {
  await one.joinRoom(room_id);
  await seen(one, (room) => room.getMyMembership() === "join" && room.getMember(one.getUserId()), room_id);
}

// Waits until a client's copy of a room looks as wanted.
async function seen(one, wanted, room_id) {
  const is = () => one.getRoom(room_id) && wanted(one.getRoom(room_id));
  if (!is()) await waitFor(one, "sync", is, `a look of ${room_id}`);
}

async function say(one, to, room_id, body, content = {}) {
  const arrived = waitFor(to, "event", message(body), body);
  const { event_id } = await one.sendMessage(room_id, { msgtype: "m.text", body, ...content });
  await arrived;
  return event_id;
}

const features = {
  async spaces() {
    const { alice, bob, room_id } = await together();
    const space = { preset: "public_chat", name: "Space", creation_content: { type: "m.space" } };
    const { room_id: space_id } = await alice.createRoom(space);
    const { room_id: hidden_id } = await alice.createRoom({ preset: "private_chat", name: "Hidden" });
    for (const [child, order] of [[room_id, "a"], [hidden_id, "b"]]) {
      await alice.sendStateEvent(space_id, "m.space.child", { via: ["hs.test"], order }, child);
    }
    await enter(bob, space_id);
    assert.ok(bob.getRoom(space_id).isSpaceRoom());
    const names = async (one) => {
      const found = [];
      let from;
      do {
        const page = await one.getRoomHierarchy(space_id, 1, 3, false, from);
        found.push(...page.rooms.map((room) => room.name));
        from = page.next_batch;
      } while (from);
      return found;
    };
    assert.deepEqual(await names(alice), ["Space", "Together", "Hidden"]);
    assert.deepEqual(await names(bob), ["Space", "Together"]);
    const [root] = (await bob.getRoomHierarchy(space_id)).rooms;
    assert.deepEqual(root.children_state.map((child) => child.state_key), [room_id, hidden_id]);
    const summary = await bob.getRoomSummary(room_id);
    assert.deepEqual([summary.name, summary.membership], ["Together", "join"]);
  },

  async receipts() {
    const { alice, bob, room_id } = await together();
    const first = await say(alice, bob, room_id, "one");
    const second = await say(alice, bob, room_id, "two");
    const event = (id) => bob.getRoom(room_id).findEventById(id);
    const told = waitFor(alice, "Room.receipt", (read) => JSON.stringify(read.getContent()).includes(first), "the receipt");
    await bob.sendReadReceipt(event(first));
    const [, room] = await told;
    assert.ok(room.hasUserReadEvent(bob.getUserId(), first));
    assert.ok(!room.hasUserReadEvent(bob.getUserId(), second));

    // A private one moves the own marker, and nobody else is told of it.
    let leaked = false;
    alice.on("Room.receipt", (read) => (leaked ||= JSON.stringify(read.getContent()).includes(second)));
    const marked = waitFor(
      bob,
      "Room.accountData",
      (data) => data.getType() === "m.fully_read" && data.getContent().event_id === second,
      "the read marker",
    );
    await bob.setRoomReadMarkers(room_id, second, undefined, event(second));
    await marked;
    await say(bob, alice, room_id, "three");
    assert.ok(!leaked, "a private receipt was told");
  },

  async relations() {
    const { alice, bob, room_id } = await together();
    const event_id = await say(alice, bob, room_id, "orignal");
    const reaction = { "m.relates_to": { rel_type: "m.annotation", event_id, key: "👍" } };
    const reacted = waitFor(alice, "event", (event) => event.getType() === "m.reaction", "the reaction");
    await bob.sendEvent(room_id, "m.reaction", reaction);
    await reacted;
    await assert.rejects(bob.sendEvent(room_id, "m.reaction", reaction), { errcode: "M_DUPLICATE_ANNOTATION" });
    const listed = await alice.relations(room_id, event_id, "m.annotation", "m.reaction");
    assert.deepEqual(listed.events.map((event) => event.getSender()), [bob.getUserId()]);
    assert.equal(listed.originalEvent.getId(), event_id);

    const edited = waitFor(bob, "Event.replaced", (event) => event.getId() === event_id, "the edit");
    await alice.sendMessage(room_id, {
      msgtype: "m.text",
      body: "* original",
      "m.new_content": { msgtype: "m.text", body: "original" },
      "m.relates_to": { rel_type: "m.replace", event_id },
    });
    await edited;
    assert.equal(bob.getRoom(room_id).findEventById(event_id).getContent().body, "original");
    // Whoever comes later is told both with the event.
    const told = await bob.fetchRoomEvent(room_id, event_id);
    const bundle = told.unsigned["m.relations"]["m.replace"];
    assert.equal(bundle.content["m.new_content"].body, "original");

    const sent = bob.getRoom(room_id).findEventById(event_id).getTs();
    const found = await bob.timestampToEvent(room_id, sent, sdk.Direction.Forward);
    assert.deepEqual(found, { event_id, origin_server_ts: sent });
  },

  async threads() {
    const { alice, bob, room_id } = await together();
    const root = await say(alice, bob, room_id, "the root");
    const other = await say(alice, bob, room_id, "nothing follows");
    const reply = { "m.relates_to": { rel_type: "m.thread", event_id: root } };
    const replies = [];
    // Without a sync: the SDK trips over a reply in a thread that it is told of
    // before it has the answer to sending it.
    const replier = client(baseUrl, userOf(bob));
    for (let number = 0; number < 7; number++) {
      replies.push(await say(replier, alice, room_id, `reply ${number}`, reply));
    }
    const thread = alice.getRoom(room_id).getThread(root);
    assert.ok(thread, "alice sees no thread");
    assert.equal(thread.length, replies.length);

    // A fresh client finds the thread in the list, and its replies by pages.
    alice.stopClient();
    const again = await start(baseUrl, userOf(alice), OPTIONS);
    const list = await again.createThreadListMessagesRequest(room_id, null, 10, sdk.Direction.Backward, sdk.ThreadFilterType.All);
    assert.deepEqual(list.chunk.map((event) => event.event_id), [root]);
    const bundle = list.chunk[0].unsigned["m.relations"]["m.thread"];
    assert.deepEqual([bundle.count, bundle.latest_event.event_id], [replies.length, replies.at(-1)]);
    const found = [];
    let from;
    do {
      const options = { limit: 3, from, dir: sdk.Direction.Backward };
      const page = await again.relations(room_id, root, "m.thread", null, options);
      // The root comes with each page.
      found.push(...page.events.map((event) => event.getId()).filter((id) => id !== root));
      from = page.nextBatch;
    } while (from);
    assert.deepEqual(found, [...replies].reverse());
    assert.ok(!found.includes(other));
  },

  async search() {
    const { alice, bob, room_id } = await together();
    const sent = [];
    for (const text of ["a needle", "only hay", "needles and pins"]) {
      sent.push(await say(alice, bob, room_id, text));
    }
    const elsewhere = await alice.createRoom({ preset: "private_chat" });
    await alice.sendTextMessage(elsewhere.room_id, "a needle of alice's own");
    const find = async (one, term) => {
      const results = await one.searchRoomEvents({ term, filter: { rooms: [room_id] } });
      return results.results.map((result) => result.context.getEvent().getId()).sort();
    };
    // Search follows what was said as it can.
    const deadline = Date.now() + 15000;
    while ((await find(bob, "pins")).length === 0 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.deepEqual(await find(bob, "pins"), [sent[2]]);
    assert.ok((await find(bob, "needle")).includes(sent[0]));
    assert.deepEqual(await find(bob, "hay"), [sent[1]]);
    const everywhere = await bob.searchRoomEvents({ term: "own" });
    assert.equal(everywhere.count, 0);
    const users = await bob.searchUserDirectory({ term: "js-search-alice" });
    assert.deepEqual(users.results.map((user) => user.user_id), [alice.getUserId()]);
  },

  async typing() {
    const { alice, bob, room_id } = await together();
    const is = (typing) => (_event, member) => member.userId === alice.getUserId() && member.typing === typing;
    for (const typing of [true, false]) {
      const told = waitFor(bob, "RoomMember.typing", is(typing), `typing: ${typing}`);
      await alice.sendTyping(room_id, typing, 10000);
      await told;
    }
    // It ends by itself.
    const begun = waitFor(bob, "RoomMember.typing", is(true), "typing again");
    const ended = waitFor(bob, "RoomMember.typing", is(false), "typing to end");
    await alice.sendTyping(room_id, true, 1000);
    await begun;
    await ended;
  },

  async upgrade() {
    const { alice, bob, room_id } = await together({ room_version: "10", topic: "Moving" });
    const moved = waitFor(bob, "event", (event) => event.getType() === "m.room.tombstone", "the tombstone");
    const { replacement_room } = await alice.upgradeRoom(room_id, "11");
    const [tombstone] = await moved;
    assert.equal(tombstone.getContent().replacement_room, replacement_room);
    await enter(bob, replacement_room);
    const after = bob.getRoom(replacement_room);
    assert.equal(after.getVersion(), "11");
    assert.equal(after.findPredecessor().roomId, room_id);
    assert.equal(after.name, "Together");
    const topic = after.currentState.getStateEvents("m.room.topic", "");
    assert.equal(topic.getContent().topic, "Moving");
    assert.deepEqual(bob.getVisibleRooms().map((room) => room.roomId), [replacement_room]);
    await assert.rejects(bob.sendTextMessage(room_id, "too late"), { errcode: "M_FORBIDDEN" });
  },
};

await features[feature]();
process.exit(0);
