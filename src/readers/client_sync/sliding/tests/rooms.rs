//! Which rooms an answer tells of, and what of each.

use log_format::record::output::Visibility;
use serde_json::json;

use super::client::{Client, everything, ids};
use crate::readers::client_sync::sliding::request::Dialect;
use crate::readers::client_sync::tests::world::{World, user};

fn window(last: u64, limit: u64) -> serde_json::Value {
    json!({"lists": {"a": {"ranges": [[0, last]], "timeline_limit": limit}}})
}

fn told_rooms(answer: &serde_json::Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_object().into_iter().flatten();
    rooms.map(|(room, _)| room.as_str()).collect()
}

#[tokio::test]
async fn a_first_answer_tells_the_newest_rooms_and_a_wider_window_the_others() {
    let mut world = World::new(2);
    let (ann, ben) = (user("ann"), user("ben"));
    let rooms: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| world.create(name, &ann, Visibility::Shared))
        .into();
    world.say(&rooms[0], &ben, "newest");
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, window(1, 1)).await;
    assert_eq!(told_rooms(&answer), ["!a:here", "!d:here"]);
    assert_eq!(answer["lists"]["a"]["count"], 4);
    let told = &answer["rooms"]["!a:here"];
    assert_eq!(told["initial"], true);
    assert_eq!(told["limited"], true);
    assert_eq!(told["num_live"], 0);
    assert_eq!(told["joined_count"], 1);
    assert_eq!(told["membership"], "join");
    assert_eq!(told["lists"], json!(["a"]));
    assert!(told["prev_batch"].is_string());
    assert_eq!(ids(&told["timeline"]), ["$e13"]);
    // Nothing new: an empty answer, and the client stays where it is.
    let pos = client.pos.clone();
    let answer = client.sync(&world, window(1, 1)).await;
    assert_eq!((told_rooms(&answer).len(), &client.pos), (0, &pos));
    // A wider window tells the rooms that were not told, and those alone.
    let answer = client.sync(&world, window(9, 1)).await;
    assert_eq!(told_rooms(&answer), ["!b:here", "!c:here"]);
    // An event brings its room to the top of a narrow window.
    let id = world.say(&rooms[1], &ben, "hello");
    let answer = client.sync(&world, window(0, 5)).await;
    assert_eq!(told_rooms(&answer), ["!b:here"]);
    let told = &answer["rooms"]["!b:here"];
    assert!(told.get("initial").is_none());
    assert_eq!(told["num_live"], 1);
    let shown = ids(&told["timeline"]);
    assert_eq!(shown.last(), Some(&id.as_str()));
    // The limit grew: what lies before is told with it.
    assert_eq!(told["unstable_expanded_timeline"], true);
    assert_eq!(shown.len(), 4);
}

#[tokio::test]
async fn a_room_that_was_out_of_sight_is_told_on_from_there() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let one = world.create("one", &ann, Visibility::Shared);
    let two = world.create("two", &ann, Visibility::Shared);
    let mut client = Client::new(&ann);
    client.sync(&world, everything(50)).await;
    let first = world.say(&one, &ben, "unseen");
    let topic = world.state(&one, &ann, "m.room.topic", "", json!({"topic": "t"}));
    world.say(&two, &ben, "on top");
    let narrow = json!({"lists": {"all": {
        "ranges": [[0, 0]], "timeline_limit": 50, "required_state": [["*", "*"]],
    }}});
    let answer = client.sync(&world, narrow).await;
    assert_eq!(told_rooms(&answer), ["!two:here"]);
    let answer = client.sync(&world, everything(50)).await;
    let told = &answer["rooms"][one.as_str()];
    assert_eq!(ids(&told["timeline"]), [first.as_str(), topic.as_str()]);
    assert_eq!(ids(&told["required_state"]), [topic.as_str()]);
    assert!(told.get("limited").is_none() && told.get("initial").is_none());
    // They came before the client's position.
    assert_eq!(told["num_live"], 0);
}

#[tokio::test]
async fn a_subscription_asks_for_more_and_is_answered_at_once() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let name = world.state(&room, &ann, "m.room.name", "", json!({"name": "Tea"}));
    for _ in 0..5 {
        world.say(&room, &ann, "x");
    }
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, window(9, 1)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["name"], "Tea");
    assert!(told.get("heroes").is_none());
    assert!(told.get("required_state").is_none());
    let mut more = window(9, 1);
    more["room_subscriptions"] = json!({
        room.as_str(): {"timeline_limit": 4, "required_state": [["m.room.name", ""]]},
        "!unknown:here": {"timeline_limit": 4},
    });
    let answer = client.sync(&world, more.clone()).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(ids(&told["timeline"]).len(), 4);
    assert_eq!(told["unstable_expanded_timeline"], true);
    assert_eq!(told["limited"], true);
    assert_eq!(ids(&told["required_state"]), [name.as_str()]);
    // It has been told now.
    assert_eq!(
        told_rooms(&client.sync(&world, more.clone()).await).len(),
        0
    );
    // Less is no news, and asking for the same again neither.
    assert_eq!(
        told_rooms(&client.sync(&world, window(9, 1)).await).len(),
        0
    );
    assert_eq!(told_rooms(&client.sync(&world, more).await).len(), 0);
    // A room of others is none that could be subscribed to.
    let other = world.create("other", &user("ben"), Visibility::WorldReadable);
    let peek = json!({"room_subscriptions": {other.as_str(): {"timeline_limit": 4}}});
    assert_eq!(told_rooms(&client.sync(&world, peek).await).len(), 0);
}

#[tokio::test]
async fn state_that_is_wanted_is_kept_up_to_date_and_other_state_not_told() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    let asks = |state: serde_json::Value| {
        json!({"lists": {"a": {
            "ranges": [[0, 9]], "timeline_limit": 1, "required_state": state,
        }}})
    };
    let mut client = Client::new(&ann);
    let lazy = json!([
        ["m.room.topic", ""],
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"]
    ]);
    let answer = client.sync(&world, asks(lazy.clone())).await;
    let own = ids(&answer["rooms"][room.as_str()]["required_state"]).join(",");
    assert_eq!(own, "$e2", "the own membership alone");
    let topic = world.state(&room, &ann, "m.room.topic", "", json!({"topic": "t"}));
    world.state(&room, &ann, "x.other", "", json!({}));
    let answer = client.sync(&world, asks(lazy.clone())).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(ids(&told["required_state"]), [topic.as_str()]);
    // Whom the timeline shows is told once.
    let joined = world.member(&room, &ben, &ben, "join");
    let answer = client.sync(&world, asks(lazy.clone())).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(ids(&told["required_state"]), [joined.as_str()]);
    assert_eq!(told["joined_count"], 2);
    assert_eq!(told["heroes"], json!([{"user_id": "@ben:here"}]));
    world.say(&room, &ben, "x");
    let answer = client.sync(&world, asks(lazy.clone())).await;
    assert!(
        answer["rooms"][room.as_str()]
            .get("required_state")
            .is_none()
    );
    // A gap: clients drop the members they have.
    world.say(&room, &ann, "1");
    world.say(&room, &ben, "2");
    let answer = client.sync(&world, asks(lazy)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["limited"], true);
    assert_eq!(ids(&told["required_state"]), [joined.as_str()]);
    // More is asked for: what was not told of it is.
    let all = asks(json!([["*", "*"]]));
    let answer = client.sync(&world, all).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(ids(&told["required_state"]).len(), 4);
    assert!(told.get("timeline").is_none());
}

#[tokio::test]
async fn an_invite_is_told_from_outside_and_its_end_once() {
    let mut world = World::new(1);
    let (ann, ben) = (user("ann"), user("ben"));
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "m.room.name", "", json!({"name": "Tea"}));
    world.state(&room, &ann, "x.secret", "", json!({"secret": 1}));
    world.member(&room, &ann, &ben, "invite");
    for dialect in [Dialect::Unstable, Dialect::Accepted] {
        let mut client = Client::new(&ben);
        client.dialect = dialect;
        client.device = if dialect == Dialect::Unstable {
            "OLD"
        } else {
            "NEW"
        };
        let answer = client.sync(&world, everything(10)).await;
        let told = &answer["rooms"][room.as_str()];
        let (here, not) = match dialect {
            Dialect::Unstable => ("invite_state", "stripped_state"),
            Dialect::Accepted => ("stripped_state", "invite_state"),
        };
        assert_eq!(told[here].as_array().map(Vec::len), Some(4), "{told}");
        assert!(told.get(not).is_none() && told.get("timeline").is_none());
        assert_eq!(told["membership"], "invite");
        assert!(!answer.to_string().contains("secret"));
        let only = |wanted: bool| json!({"lists": {"a": {"timeline_limit": 1, "filters": {"is_invite": wanted}}}});
        let counts = [only(true), only(false)].map(|body| client.ask(&world, body));
        let counts = futures_util::future::join_all(counts).await;
        let counts: Vec<_> = counts
            .into_iter()
            .map(|answer| answer.expect("an answer")["lists"]["a"]["count"].clone())
            .collect();
        assert_eq!(counts, [json!(1), json!(0)]);
    }
    let mut client = Client::new(&ben);
    client.sync(&world, everything(10)).await;
    let reject = world.member(&room, &ben, &ben, "leave");
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "secret"}));
    let answer = client.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["membership"], "leave");
    assert_eq!(ids(&told["required_state"]), [reject.as_str()]);
    assert!(!answer.to_string().contains("secret"));
    assert_eq!(
        told_rooms(&client.sync(&world, everything(10)).await).len(),
        0
    );
    // A new connection hears nothing of it.
    let mut other = Client::new(&ben);
    other.device = "OTHER";
    let answer = other.sync(&world, everything(10)).await;
    assert_eq!(answer["lists"]["all"]["count"], 0);
}

#[tokio::test]
async fn who_is_gone_is_told_so_once_and_nothing_of_what_follows() {
    let mut world = World::new(1);
    let (ann, ben, cid) = (user("ann"), user("ben"), user("cid"));
    let room = world.create("room", &ann, Visibility::WorldReadable);
    world.member(&room, &ben, &ben, "join");
    world.member(&room, &cid, &cid, "join");
    let mut client = Client::new(&ben);
    client.sync(&world, everything(10)).await;
    let mut leaver = Client::new(&cid);
    leaver.sync(&world, everything(10)).await;
    let last = world.say(&room, &ann, "bye");
    let kick = world.member(&room, &ann, &ben, "leave");
    let left = world.member(&room, &cid, &cid, "leave");
    world.say(&room, &ann, "secret");
    world.state(&room, &ann, "m.room.name", "", json!({"name": "secret"}));
    let answer = client.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["membership"], "leave");
    assert_eq!(ids(&told["timeline"]), [last.as_str(), kick.as_str()]);
    assert_eq!(ids(&told["required_state"]), [kick.as_str()]);
    assert!(told.get("joined_count").is_none() && told.get("notification_count").is_none());
    assert!(!answer.to_string().contains("secret"));
    let stamp = told["bump_stamp"].clone();
    world.say(&room, &ann, "secret");
    assert_eq!(
        told_rooms(&client.sync(&world, everything(10)).await).len(),
        0
    );
    let answer = leaver.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(
        ids(&told["timeline"]),
        [last.as_str(), kick.as_str(), left.as_str()]
    );
    // A new connection learns of the kick, not of the room that was left.
    for (who, count) in [(&ben, 1), (&cid, 0)] {
        let mut other = Client::new(who);
        other.device = "OTHER";
        let answer = other.sync(&world, everything(10)).await;
        assert_eq!(answer["lists"]["all"]["count"], count);
        assert!(!answer.to_string().contains("secret"));
        if count == 1 {
            let told = &answer["rooms"][room.as_str()];
            assert_eq!(told["bump_stamp"], stamp);
            assert_eq!(told["membership"], "leave");
            assert_eq!(ids(&told["required_state"]).len(), 5);
        }
        world
            .users
            .forgotten
            .write()
            .push((who.clone(), room.clone()));
        let forgot = other.sync(&world, everything(10)).await;
        assert_eq!(told_rooms(&forgot).len(), 0);
    }
    // Back in: all is new.
    let back = world.member(&room, &ben, &ben, "join");
    let answer = client.sync(&world, everything(100)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(told["initial"], true);
    assert_eq!(ids(&told["timeline"]).last(), Some(&back.as_str()));
    assert_eq!(client.rooms[room.as_str()].name, "secret");
}

#[tokio::test]
async fn removed_names_and_state_are_told() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    world.state(&room, &ann, "m.room.name", "", json!({"name": "Tea"}));
    world.state(
        &room,
        &ann,
        "m.room.avatar",
        "",
        json!({"url": "mxc://here/a"}),
    );
    let mut client = Client::new(&ann);
    let answer = client.sync(&world, everything(10)).await;
    assert_eq!(answer["rooms"][room.as_str()]["avatar"], "mxc://here/a");
    world.state(&room, &ann, "m.room.name", "", json!({"name": ""}));
    world.state(&room, &ann, "m.room.avatar", "", json!({}));
    let answer = client.sync(&world, everything(10)).await;
    let told = &answer["rooms"][room.as_str()];
    assert_eq!(
        (told.get("name"), told.get("avatar")),
        (Some(&json!(null)), Some(&json!(null)))
    );
    assert_eq!(told["heroes"], json!([]));
}

#[tokio::test]
async fn only_proper_activity_raises_the_bump_stamp() {
    let mut world = World::new(1);
    let ann = user("ann");
    let room = world.create("room", &ann, Visibility::Shared);
    let mut client = Client::new(&ann);
    client.sync(&world, everything(10)).await;
    let first = client.rooms[room.as_str()].bump_stamp;
    world.state(&room, &ann, "m.room.topic", "", json!({"topic": "t"}));
    client.sync(&world, everything(10)).await;
    assert_eq!(client.rooms[room.as_str()].bump_stamp, first);
    world.say(&room, &ann, "x");
    client.sync(&world, everything(10)).await;
    assert!(client.rooms[room.as_str()].bump_stamp > first);
}
