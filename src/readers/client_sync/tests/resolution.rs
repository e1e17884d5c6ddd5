//! What state resolution changes is told as state, whatever the timeline says.

use log_format::record::output::Visibility;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Value, json};

use super::fake_rooms::{Fate, How};
use super::world::{World, ids, request, user};
use crate::query::rooms::StateKey;
use crate::query::tokens::{SyncPositions, SyncToken};
use crate::readers::client_sync::StateSection;

fn topic(text: &str) -> Value {
    json!({ "topic": text })
}

fn topic_key() -> StateKey {
    StateKey::new("m.room.topic", "")
}

fn member_key(user: &OwnedUserId) -> StateKey {
    StateKey::new("m.room.member", user.as_str())
}

/// Ann's room with two topics, one after the other.
fn room_with_topics(world: &mut World) -> (OwnedUserId, OwnedRoomId, [OwnedEventId; 2]) {
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let a = world.state(&room, &ann, "m.room.topic", "", topic("a"));
    let b = world.state(&room, &ann, "m.room.topic", "", topic("b"));
    (ann, room, [a, b])
}

/// What a client that knows the room is told of it since a token, in either form.
async fn told(world: &World, who: &OwnedUserId, since: &Value, after: bool) -> Value {
    world.fold();
    let mut asks = request(who, since["next_batch"].as_str(), json!({}));
    asks.state_section = StateSection::of(after);
    let answer = world.ask(asks).await.expect("an answer");
    answer["rooms"]["join"]["!room:here"].clone()
}

fn state_ids(told: &Value, after: bool) -> Vec<String> {
    let (here, other) = match after {
        true => ("state_after", "state"),
        false => ("state", "state_after"),
    };
    assert!(told.get(other).is_none());
    ids(&told[here]["events"])
}

#[tokio::test]
async fn an_old_state_that_comes_back_is_told_beside_the_timeline() {
    let mut world = World::new(1);
    let (ann, room, [a, b]) = room_with_topics(&mut world);
    let first = world.synced(&ann, None, json!({})).await;
    let how = How {
        on: Some(world.before_newest(&room)),
        resolves: vec![(topic_key(), Some(a.clone()))],
        ..How::default()
    };
    let body = json!({"body": "merges"});
    let merge = world.send(&room, &ann, "m.room.message", None, body, how);
    for after in [false, true] {
        let told = told(&world, &ann, &first, after).await;
        assert_eq!(ids(&told["timeline"]["events"]), [merge.as_str()]);
        assert_eq!(state_ids(&told, after), [a.as_str()]);
    }
    // A token stands for the state that was current when it was given.
    let next = world
        .synced(&ann, first["next_batch"].as_str(), json!({}))
        .await;
    let tokens = [&first, &next].map(|answer| answer["next_batch"].as_str().expect("a token"));
    let tokens = tokens.map(|token| SyncToken::decode(token).expect("a token"));
    let currents = world.rooms.rooms.read()[&room].currents.clone();
    let at = tokens.map(|token| world.sync.state_of(&room, &token).expect("is ours"));
    assert_eq!(at, [currents[4], currents[5]].map(Some));
    // Whoever knows nothing is told the resolved state as well.
    let mut fresh = request(&ann, None, json!({"room": {"timeline": {"limit": 1}}}));
    fresh.state_section = StateSection::of(true);
    let fresh = world.ask(fresh).await.expect("an answer");
    let state = ids(&fresh["rooms"]["join"][room.as_str()]["state_after"]["events"]);
    assert!(state.contains(&a.to_string()) && !state.contains(&b.to_string()));
}

#[tokio::test]
async fn a_soft_failed_event_that_wins_is_told_as_state_alone() {
    let mut world = World::new(1);
    let (ann, room, _) = room_with_topics(&mut world);
    let first = world.synced(&ann, None, json!({})).await;
    let soft = How {
        on: Some(world.before_newest(&room)),
        fate: Fate::SoftFailed,
        ..How::default()
    };
    let evades = world.send(&room, &ann, "m.room.topic", Some(""), topic("c"), soft);
    // By itself it is no news to anybody.
    assert_eq!(told(&world, &ann, &first, false).await, Value::Null);
    let merges = How {
        resolves: vec![(topic_key(), Some(evades.clone()))],
        ..How::default()
    };
    let body = json!({"body": "merges"});
    let merge = world.send(&room, &ann, "m.room.message", None, body, merges);
    for after in [false, true] {
        let told = told(&world, &ann, &first, after).await;
        assert_eq!(ids(&told["timeline"]["events"]), [merge.as_str()]);
        assert_eq!(state_ids(&told, after), [evades.as_str()]);
    }
}

#[tokio::test]
async fn history_that_is_found_later_shows_in_no_timeline() {
    let mut world = World::new(1);
    let (ann, room, _) = room_with_topics(&mut world);
    let first = world.synced(&ann, None, json!({})).await;
    let old = How {
        fate: Fate::History,
        ..How::default()
    };
    let body = json!({"body": "old"});
    world.send(&room, &ann, "m.room.message", None, body, old.clone());
    assert_eq!(told(&world, &ann, &first, false).await, Value::Null);
    // Should it change current state all the same, then that is told.
    let found = world.send(
        &room,
        &ann,
        "m.room.topic",
        Some(""),
        topic("old"),
        old.clone(),
    );
    let resolves = How {
        resolves: vec![(topic_key(), Some(found.clone()))],
        ..old
    };
    let body = json!({"body": "older"});
    world.send(&room, &ann, "m.room.message", None, body, resolves);
    for after in [false, true] {
        let told = told(&world, &ann, &first, after).await;
        assert_eq!(told["timeline"]["events"], json!([]));
        assert_eq!(state_ids(&told, after), [found.as_str()]);
    }
}

#[tokio::test]
async fn a_timeline_does_not_bridge_a_gap() {
    let mut world = World::new(1);
    let (ann, room, _) = room_with_topics(&mut world);
    let first = world.synced(&ann, None, json!({})).await;
    let before = world.say(&room, &ann, "before");
    let between = world
        .synced(&ann, first["next_batch"].as_str(), json!({}))
        .await;
    let behind = How {
        behind_gap: true,
        ..How::default()
    };
    let next = world.send(&room, &ann, "m.room.topic", Some(""), topic("c"), behind);
    let last = world.say(&room, &ann, "last");
    // Wherever a client stood, it learns that something is missing.
    for since in [&first, &between] {
        let told = told(&world, &ann, since, false).await;
        let timeline = &told["timeline"];
        assert_eq!(ids(&timeline["events"]), [next.as_str(), last.as_str()]);
        assert_eq!(timeline["limited"], true);
        assert!(timeline["prev_batch"].is_string());
    }
    let fresh = world.synced(&ann, None, json!({})).await;
    let told = &fresh["rooms"]["join"][room.as_str()]["timeline"];
    assert_eq!(ids(&told["events"]), [next.as_str(), last.as_str()]);
    assert!(!told.to_string().contains(before.as_str()));
}

#[tokio::test]
async fn a_state_event_that_lost_misleads_nobody() {
    let mut world = World::new(1);
    let (ann, room, [_, b]) = room_with_topics(&mut world);
    let first = world.synced(&ann, None, json!({})).await;
    let one = world.say(&room, &ann, "one");
    let loses = How {
        on: Some(world.before_newest(&room)),
        fate: Fate::Loses,
        ..How::default()
    };
    let lost = world.send(&room, &ann, "m.room.topic", Some(""), topic("c"), loses);
    let two = world.say(&room, &ann, "two");
    let exact = told(&world, &ann, &first, true).await;
    let all = [one.as_str(), lost.as_str(), two.as_str()];
    assert_eq!(ids(&exact["timeline"]["events"]), all);
    assert_eq!(state_ids(&exact, true), Vec::<String>::new());
    // A client that applies its timeline gets one without the event, and can
    // ask for what was cut.
    let classic = told(&world, &ann, &first, false).await;
    assert_eq!(ids(&classic["timeline"]["events"]), [two.as_str()]);
    assert_eq!(classic["timeline"]["limited"], true);
    assert!(classic["timeline"]["prev_batch"].is_string());
    assert_eq!(state_ids(&classic, false), Vec::<String>::new());
    // Whoever knows nothing applies the one that holds the key.
    let fresh = world.synced(&ann, None, json!({})).await;
    let fresh = &fresh["rooms"]["join"][room.as_str()];
    assert!(state_ids(fresh, false).contains(&b.to_string()));
    assert_eq!(ids(&fresh["timeline"]["events"]), [two.as_str()]);
}

#[tokio::test]
async fn who_is_thrown_out_and_let_in_moves_between_sections() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let joined = world.member(&room, &ben, &ben, "join");
    let first = world.synced(&ben, None, json!({})).await;
    let banned = How {
        on: Some(world.before_newest(&room)),
        fate: Fate::SoftFailed,
        ..How::default()
    };
    let ban = json!({"membership": "ban"});
    let ban = world.send(
        &room,
        &ann,
        "m.room.member",
        Some(ben.as_str()),
        ban,
        banned,
    );
    let throws = How {
        resolves: vec![(member_key(&ben), Some(ban.clone()))],
        ..How::default()
    };
    let body = json!({"body": "out"});
    world.send(&room, &ann, "m.room.message", None, body, throws);
    let secret = world.say(&room, &ann, "not for ben");
    for after in [false, true] {
        world.fold();
        let mut asks = request(&ben, first["next_batch"].as_str(), json!({}));
        asks.state_section = StateSection::of(after);
        let answer = world.ask(asks).await.expect("an answer");
        assert_eq!(answer["rooms"]["join"], json!({}));
        let left = &answer["rooms"]["leave"][room.as_str()];
        assert_eq!(state_ids(left, after), [ban.as_str()]);
        assert!(!answer.to_string().contains(secret.as_str()));
    }
    let out = world
        .synced(&ben, first["next_batch"].as_str(), json!({}))
        .await;
    let quiet = world
        .synced(&ben, out["next_batch"].as_str(), json!({}))
        .await;
    assert_eq!(
        quiet["rooms"],
        json!({"join": {}, "invite": {}, "knock": {}, "leave": {}})
    );
    let lets_in = How {
        resolves: vec![(member_key(&ben), Some(joined.clone()))],
        ..How::default()
    };
    let body = json!({"body": "in"});
    let back = world.send(&room, &ann, "m.room.message", None, body, lets_in);
    for restart in [false, true] {
        if restart {
            world.restart(false);
        }
        let told = told(&world, &ben, &out, false).await;
        // Shared: what was said meanwhile is told to who is in again.
        let events = ids(&told["timeline"]["events"]);
        assert_eq!(events, [secret.as_str(), back.as_str()]);
        let state = state_ids(&told, false);
        assert!(
            state.contains(&joined.to_string()) && state.len() == 4,
            "{state:?}"
        );
    }
    // The entry is gone altogether: there is no event to tell it by.
    let second = world.synced(&ben, None, json!({})).await;
    let removes = How {
        resolves: vec![(member_key(&ben), None)],
        ..How::default()
    };
    world.send(
        &room,
        &ann,
        "m.room.message",
        None,
        json!({"body": "-"}),
        removes,
    );
    let gone = world
        .synced(&ben, second["next_batch"].as_str(), json!({}))
        .await;
    assert_eq!(gone["rooms"]["join"], json!({}));
    let left = &gone["rooms"]["leave"][room.as_str()];
    assert_eq!(left["state"]["events"], json!([]));
}

#[tokio::test]
async fn a_change_in_parts_counts_from_its_end() {
    for restart in [false, true] {
        let mut world = World::new(1);
        let (ann, ben) = (user("ann"), user("ben"));
        let room = world.create("room", &ann, Visibility::Shared);
        let joined = world.member(&room, &ben, &ben, "join");
        let mut states = Vec::new();
        for index in 0..5 {
            let kind = format!("x.{index}");
            states.push(world.state(&room, &ann, &kind, "", json!({"n": 0})));
            world.state(&room, &ann, &kind, "", json!({"n": 1}));
        }
        world.member(&room, &ben, &ben, "leave");
        let (of_ann, of_ben) = (
            world.synced(&ann, None, json!({})).await,
            world.synced(&ben, None, json!({})).await,
        );
        let keys = (0..5).map(|index| StateKey::new(&format!("x.{index}"), ""));
        let keys = keys.zip(states.iter().cloned().map(Some));
        let mut resolves: Vec<_> = keys.collect();
        resolves.push((member_key(&ben), Some(joined.clone())));
        let how = How {
            resolves,
            parts: 3,
            ..How::default()
        };
        let merge = world.send(
            &room,
            &ann,
            "m.room.message",
            None,
            json!({"body": "m"}),
            how,
        );
        // Two parts of four records are folded, and a client is told nothing yet.
        world.fold_some(2);
        let early = world.ask(request(&ann, of_ann["next_batch"].as_str(), json!({})));
        let early = early.await.expect("an answer");
        assert_eq!(early["rooms"]["join"], json!({}));
        let mut fresh = request(&ann, None, json!({}));
        fresh.state_section = StateSection::of(true);
        let fresh = world.ask(fresh).await.expect("an answer");
        let fresh = &fresh["rooms"]["join"][room.as_str()];
        assert!(!state_ids(fresh, true).contains(&states[0].to_string()));
        if restart {
            world.restart(false);
        }
        // From its token on, the whole change is new.
        for after in [false, true] {
            let told = told(&world, &ann, &early, after).await;
            let mut expected: Vec<String> = states.iter().map(ToString::to_string).collect();
            expected.push(joined.to_string());
            expected.sort();
            let mut state = state_ids(&told, after);
            state.sort();
            assert_eq!(state, expected);
            assert_eq!(ids(&told["timeline"]["events"]), [merge.as_str()]);
        }
        let told = told(&world, &ben, &of_ben, false).await;
        assert!(state_ids(&told, false).contains(&joined.to_string()));
        world.restart(restart);
        let told_again = self::told(&world, &ben, &of_ben, false).await;
        assert_eq!(state_ids(&told, false), state_ids(&told_again, false));
    }
}
