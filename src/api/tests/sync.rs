//! The parameters of `/sync`; what it answers is tested with its reader.

use serde_json::json;

use super::Doors;

#[tokio::test]
async fn sync_takes_its_parameters_or_says_which_is_wrong() {
    let doors = Doors::open();
    let token = doors.token_of("alice").await;
    let first = doors.get("/v3/sync", &token).await.ok();
    let since = first["next_batch"].as_str().unwrap();
    assert_eq!(first["device_one_time_keys_count"], json!({}));
    let filter = doors
        .post(
            "/v3/user/@alice:hs/filter",
            Some(&token),
            json!({"room": {"timeline": {"limit": 1}}}),
        )
        .await
        .ok();
    let filter = filter["filter_id"].as_str().unwrap();
    for fine in [
        format!("since={since}"),
        format!("since={since}&timeout=1&set_presence=offline"),
        format!("filter={filter}&full_state=true&use_state_after=true"),
        "filter=%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:5%7D%7D%7D".to_owned(),
        "timeout=0&unknown=1".to_owned(),
    ] {
        let answer = doors.get(&format!("/v3/sync?{fine}"), &token).await.ok();
        assert_eq!(answer["next_batch"], since, "{fine}");
    }
    for wrong in [
        "since=s72594_4483_1934",
        "filter=nosuchfilter",
        "filter=%7B",
        "filter=%7B%22room%22:5%7D",
        "timeout=-1",
        "timeout=soon",
        "full_state=maybe",
        "set_presence=asleep",
    ] {
        let answer = doors.get(&format!("/v3/sync?{wrong}"), &token).await;
        assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{wrong}");
    }
    // Some clients begin with an empty one.
    doors.get("/v3/sync?since=", &token).await.ok();
    let closed = doors.call("GET", "/v3/sync", None, "").await;
    assert_eq!(closed.error(), (401, "M_MISSING_TOKEN"));
}
