//! Guests in rooms of other servers (client-server API, *Guest Access*): they come
//! into those that admit guests, and stay in no other.

use serde_json::json;

use super::Neighbourhood;
use super::elsewhere::{act, becomes, join_by};
use crate::users::guest;

#[tokio::test(flavor = "multi_thread")]
async fn guests_stay_in_rooms_elsewhere_that_admit_them_and_in_no_other() {
    let neighbourhood = Neighbourhood::new();
    let (a, b) = tokio::join!(
        neighbourhood.builder("a.test").start(),
        neighbourhood
            .builder("b.test")
            .set("REGISTRATION__GUESTS", true)
            .start()
    );
    let (alice, guest) = tokio::join!(a.register("alice"), guest(&b));
    // The presets say `can_join` for private rooms, `forbidden` for public ones.
    let private = alice.create_room(json!({ "preset": "private_chat" })).await;
    let invited = json!({ "user_id": guest.user_id });
    act(&alice, &private, "invite", invited).await.ok();
    join_by(&guest, &private, "a.test").await.ok();
    becomes(&alice, &private, &guest.user_id, "join").await;
    guest.send_text(&private, "hello").await;

    let public = alice.create_room(json!({ "preset": "public_chat" })).await;
    let refused = join_by(&guest, &public, "a.test").await;
    refused.refused(403, "M_GUEST_ACCESS_FORBIDDEN");
    becomes(&alice, &public, &guest.user_id, "leave").await;
    let synced = guest.sync("").await;
    let joined = synced["rooms"]["join"].as_object().unwrap();
    assert_eq!(joined.keys().collect::<Vec<_>>(), [&private]);
}
