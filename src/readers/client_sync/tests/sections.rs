//! The sections of an answer, one rule of the specification at a time.

use log_format::record::output::Visibility;
use serde_json::json;

use super::world::{World, ids, user};

#[tokio::test]
async fn a_first_sync_tells_the_timeline_and_the_state_before_it() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let topic = world.state(&room, &ann, "m.room.topic", "", json!({"topic": "a"}));
    world.member(&room, &ben, &ben, "join");
    let one = world.say(&room, &ben, "one");
    let two = world.say(&room, &ben, "two");
    let filter = json!({"room": {"timeline": {"limit": 2}}});
    let answer = world.synced(&ann, None, filter).await;
    let told = &answer["rooms"]["join"][room.as_str()];
    assert_eq!(
        ids(&told["timeline"]["events"]),
        [one.as_str(), two.as_str()]
    );
    assert_eq!(told["timeline"]["limited"], true);
    assert!(told["timeline"]["prev_batch"].is_string());
    let state = ids(&told["state"]["events"]);
    assert_eq!(state.len(), 5);
    assert!(state.contains(&topic.to_string()));
    assert_eq!(told["unread_notifications"]["notification_count"], 2);
    assert_eq!(told["summary"]["m.heroes"], json!(["@ben:here"]));
    let pushed = &answer["account_data"]["events"][0];
    assert_eq!(pushed["type"], "m.push_rules");
    assert!(pushed["content"]["global"]["underride"].is_array());
}

#[tokio::test]
async fn a_stay_between_two_syncs_is_told_as_a_room_left() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let first = world.synced(&ben, None, json!({})).await;
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, &ben, &ben, "join");
    world.member(&room, &ann, &ben, "ban");
    world.say(&room, &ann, "not for ben");
    let since = first["next_batch"].as_str();
    let answer = world.synced(&ben, since, json!({})).await;
    let told = &answer["rooms"]["leave"][room.as_str()];
    let events = ids(&told["timeline"]["events"]);
    assert_eq!(events, ["$e1", "$e2", "$e3", "$e4", "$e5"], "{answer:#}");
}
