// matrix-js-sdk talks through Engram: `js_sdk_chat.mjs before|after BASE_URL STATE_FILE`.
//
// `before` registers two users who chat; `after` runs when the server was
// restarted and carries on from the stored tokens. Every check is an assertion.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { PASSWORD, client, message, register, start, waitFor } from "./js_sdk.mjs";

const [phase, baseUrl, stateFile] = process.argv.slice(2);

async function before() {
  const users = [];
  for (const name of ["js-alice", "js-bob"]) {
    users.push(await register(baseUrl, name));
  }
  const login = await client(baseUrl).loginRequest({
    type: "m.login.password",
    identifier: { type: "m.id.user", user: "js-alice" },
    password: PASSWORD,
  });
  assert.notEqual(login.device_id, users[0].device_id);
  const [alice, bob] = [await start(baseUrl, login), await start(baseUrl, users[1])];

  const invited = waitFor(bob, "Room.myMembership", (_room, membership) => membership === "invite", "the invite");
  const { room_id } = await alice.createRoom({
    name: "Engrams",
    preset: "private_chat",
    invite: [users[1].user_id],
  });
  await invited;
  const joined = waitFor(bob, "Room.myMembership", (_room, membership) => membership === "join", "the join");
  await bob.joinRoom(room_id);
  await joined;

  const sent = [];
  for (let number = 0; number < 25; number++) {
    const arrived = waitFor(bob, "Room.timeline", message(`message ${number}`), `message ${number}`);
    sent.push((await alice.sendTextMessage(room_id, `message ${number}`)).event_id);
    await arrived;
  }
  assert.equal(bob.getRoom(room_id).name, "Engrams");
  assert.equal(bob.getRoom(room_id).getJoinedMemberCount(), 2);

  // A fresh client sees a limited timeline and scrolls back to the beginning.
  bob.stopClient();
  const again = await start(baseUrl, users[1]);
  const room = again.getRoom(room_id);
  for (let page = 0; page < 20 && room.oldState.paginationToken !== null; page++) {
    await again.scrollback(room, 10);
  }
  const ids = room.getLiveTimeline().getEvents().filter((event) => event.getType() === "m.room.message").map((event) => event.getId());
  assert.deepEqual(ids, sent);
  assert.equal(room.getLiveTimeline().getEvents()[0].getType(), "m.room.create");

  const redacted = waitFor(again, "Room.redaction", () => true, "the redaction");
  await alice.redactEvent(room_id, sent[3], undefined, { reason: "typo" });
  await redacted;
  assert.ok(room.findEventById(sent[3]).isRedacted());

  const since = again.store.getSyncToken();
  alice.stopClient();
  again.stopClient();
  writeFileSync(stateFile, JSON.stringify({ room_id, since, sent, users: [login, users[1]] }));
}

async function after() {
  const { room_id, since, sent, users } = JSON.parse(readFileSync(stateFile, "utf8"));
  const alice = client(baseUrl, users[0]);
  const bob = await start(baseUrl, users[1]);
  assert.ok(bob.getRoom(room_id), "the room is gone");
  const arrived = waitFor(bob, "Room.timeline", message("still here"), "the message after the restart");
  const { event_id } = await alice.sendTextMessage(room_id, "still here");
  await arrived;
  bob.stopClient();
  // The raw token from before the restart still means the same position.
  const answer = await alice.http.authedRequest("GET", "/sync", { since, timeout: 0 });
  const events = answer.rooms?.join?.[room_id]?.timeline?.events ?? [];
  assert.equal(events.at(-1)?.event_id, event_id);
  assert.ok(!events.some((event) => sent.includes(event.event_id)), "an event came twice");
}

await { before, after }[phase]();
process.exit(0);
