//! Who was banned is heard no more, whatever their server builds on (server-server
//! API, *Soft failure*).

use serde_json::{Value, json};

use super::Neighbourhood;
use super::fake::Fake;
use super::guest::Guest;
use super::receiving::{error, public_room, texts};
use crate::harness::{Api, escape};

async fn event(fake: &Fake, id: &str) -> (u16, Value) {
    let uri = format!("/_matrix/federation/v1/event/{}", escape(id));
    fake.get("a.test", &uri).await
}

async fn ban(alice: &Api, room: &str, user: &str) {
    let path = format!("/_matrix/client/v3/rooms/{}/ban", escape(room));
    alice.post(&path, json!({ "user_id": user })).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_soft_failure_the_banned_are_heard_no_more() {
    let neighbourhood = Neighbourhood::new();
    let a = neighbourhood.builder("a.test").start().await;
    let alice = a.register("alice").await;
    let b = Fake::with_keys(&neighbourhood, "b.test").await;
    let c = Fake::with_keys(&neighbourhood, "c.test").await;
    for version in ["1", "2", "6", "12"] {
        let room = public_room(&alice, version).await;
        let mut carol = Guest::enter(&c, &alice, &room, "carol").await;
        let mut bob = Guest::enter(&b, &alice, &room, "bob").await;
        let good = bob.text("still welcome");
        bob.sent(&[&good]).await;
        let since = alice.sync("").await["next_batch"].clone();
        ban(&alice, &room, &bob.user).await;
        let after_ban = Guest::look(&c, &alice, &room, "carol").await.tips;

        // As if he had not heard of it. What is wrong in itself is refused first.
        let late = bob.text("you cannot get rid of me");
        let mut forged = bob.aside("m.room.message", None, json!({ "body": "forged" }));
        forged.json["signatures"] = json!({});
        let topic = bob.aside("m.room.topic", Some(""), json!({ "topic": "no power" }));
        let results = bob.send(&[&late, &forged, &topic]).await;
        assert_eq!(results[&late.id], json!({}), "{version}");
        // In versions 1 and 2 a changed event keeps its id, in later ones it is another.
        let told = results.to_string();
        assert!(told.contains("sign"), "{version} {told}");
        assert!(!error(&results, &forged).is_empty(), "{version}");

        // Clients hear nothing of it, in whichever way they ask.
        assert_eq!(texts(&alice, &room).await, ["still welcome"], "{version}");
        let since = since.as_str().unwrap();
        let sync = alice.sync(&format!("since={since}&timeout=0")).await;
        assert!(!sync.to_string().contains(&*late.id), "{version} {sync}");
        let path = format!("/_matrix/client/v3/rooms/{}", escape(&room));
        for path in [
            format!("{path}/event/{}", escape(&late.id)),
            format!("{path}/context/{}", escape(&late.id)),
        ] {
            alice.get(&path).await.refused(404, "M_NOT_FOUND");
        }
        let notified = alice.get("/_matrix/client/v3/notifications").await.ok();
        assert!(!notified.to_string().contains("rid of me"), "{version}");

        // Nothing of ours builds on it.
        let next = alice.send_text(&room, "at last").await;
        let built_on = event(&c, &next).await.1["pdus"][0]["prev_events"].to_string();
        assert!(!built_on.contains(&*late.id), "{version} {built_on}");
        // Servers that ask for it get it: theirs may have taken it in.
        let (status, given) = event(&c, &late.id).await;
        assert_eq!(status, 200, "{version} {given}");
        assert_eq!(
            given["pdus"][0]["content"]["body"],
            "you cannot get rid of me"
        );
        assert_eq!(event(&c, &topic.id).await.0, 404, "{version}: rejected");

        // A server that heard him before the ban joins both: that is heard.
        carol.tips = [after_ban, bob.tips.clone()].concat();
        let both = carol.text("what did bob say?");
        carol.sent(&[&both]).await;
        let seen = texts(&alice, &room).await;
        assert!(seen.contains(&"what did bob say?".to_owned()), "{version}");
        assert!(
            !seen.iter().any(|text| text.contains("rid of me")),
            "{version}"
        );
        let path = format!("{path}/state/m.room.member/{}", escape(&bob.user));
        assert_eq!(
            alice.get(&path).await.ok()["membership"],
            "ban",
            "{version}"
        );
    }
}
