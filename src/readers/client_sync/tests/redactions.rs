//! What is redacted is told redacted, in every section; and which redactions
//! are told at all (room version 3, *Handling redactions*).

use log_format::record::output::Visibility;
use ruma::EventId;
use serde_json::json;

use super::fake_rooms::How;
use super::world::{World, ids, user};

#[tokio::test]
async fn every_section_shows_what_redaction_left() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let named = world.state(&room, &ann, "m.room.name", "", json!({"name": "secret"}));
    let topic = world.state(&room, &ann, "m.room.topic", "", json!({"topic": "secret"}));
    let next = world.state(&room, &ann, "m.room.topic", "", json!({"topic": "plain"}));
    let said = world.say(&room, &ann, "secret");
    world.member(&room, &ann, &ben, "invite");
    let by = world.redact(&room, &ann, &named);
    world.redact(&room, &ann, &topic);
    world.redact(&room, &ann, &said);
    let answer = world
        .synced(&ann, None, json!({"room": {"timeline": {"limit": 6}}}))
        .await;
    assert!(!answer.to_string().contains("secret"));
    let told = &answer["rooms"]["join"][room.as_str()];
    let find = |events: &serde_json::Value, id: &str| {
        let mut events = events.as_array().into_iter().flatten();
        let found = events.find(|event| event["event_id"] == id);
        found.cloned().expect("is told")
    };
    let name = find(&told["state"]["events"], named.as_str());
    assert_eq!(name["content"], json!({}));
    assert_eq!(
        name["unsigned"]["redacted_because"]["event_id"],
        by.as_str()
    );
    // Without its name the room is named by its members.
    assert_eq!(told["summary"]["m.heroes"], json!([ben]));
    let replaced = find(&told["timeline"]["events"], next.as_str());
    assert_eq!(replaced["unsigned"]["prev_content"], json!({}));
    let message = find(&told["timeline"]["events"], said.as_str());
    assert_eq!(message["content"], json!({}));
    let because = &message["unsigned"]["redacted_because"];
    assert_eq!(because["content"]["redacts"], said.as_str());
    assert_eq!(because["redacts"], said.as_str());
    let invited = world.synced(&ben, None, json!({})).await;
    assert!(!invited.to_string().contains("secret"));
    let stripped = &invited["rooms"]["invite"][room.as_str()]["invite_state"]["events"];
    let name = stripped.as_array().into_iter().flatten();
    let mut name = name.filter(|event| event["type"] == "m.room.name");
    assert_eq!(name.next().expect("is told")["content"], json!({}));
}

#[tokio::test]
async fn a_redaction_without_effect_is_told_to_nobody() {
    let mut world = World::new(1);
    let (ann, far) = (user("ann"), ruma::user_id!("@far:there"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.member(&room, far, far, "join");
    let said = world.say(&room, &ann, "hello");
    let first = world.synced(&ann, None, json!({})).await;
    let mut redacts = |target: &str| {
        let content = json!({ "redacts": target });
        let kind = "m.room.redaction";
        world.send(&room, far, kind, None, content, How::default());
    };
    redacts(said.as_str());
    redacts("$unknown");
    redacts("no event id");
    let since = first["next_batch"].as_str();
    let answer = world.synced(&ann, since, json!({})).await;
    assert_eq!(answer["rooms"]["join"], json!({}));
    // One that takes effect is told, and one more by who had the power as well.
    let by = world.redact(&room, &ann, &said);
    let content = json!({ "redacts": said });
    let again = world.send(
        &room,
        &ann,
        "m.room.redaction",
        None,
        content,
        How::default(),
    );
    let answer = world.synced(&ann, since, json!({})).await;
    let told = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
    assert_eq!(ids(told), [by.as_str(), again.as_str()]);
}

#[tokio::test]
async fn a_redaction_that_came_first_is_told_with_its_event() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let first = world.synced(&ann, None, json!({})).await;
    // The ids of the fake rooms are numbers: the next event but one.
    let target = EventId::parse("$e5").expect("a plain id");
    let content = json!({ "redacts": target });
    let early = world.send(
        &room,
        &ann,
        "m.room.redaction",
        None,
        content,
        How::default(),
    );
    let nothing = world
        .synced(&ann, first["next_batch"].as_str(), json!({}))
        .await;
    assert_eq!(nothing["rooms"]["join"], json!({}));
    let said = world.say(&room, &ann, "secret");
    assert_eq!(said, target);
    world.apply_redaction(&room, &said, &early);
    for (since, expected) in [
        // Whoever was told of neither has them in the order of the room.
        (&first, [&early, &said]),
        (&nothing, [&said, &early]),
    ] {
        let answer = world
            .synced(&ann, since["next_batch"].as_str(), json!({}))
            .await;
        assert!(!answer.to_string().contains("secret"));
        let told = &answer["rooms"]["join"][room.as_str()]["timeline"]["events"];
        assert_eq!(ids(told), expected.map(ToString::to_string));
    }
}
