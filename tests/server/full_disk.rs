//! A disk without room: nothing is accepted, everything is still read, and it
//! goes on by itself once there is room again.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Api, Server, escape};

const DISK_BYTES: u64 = 96 << 20;
/// Until the store's flush after a pause has met the full disk.
const FLUSH_FAILED_AFTER: Duration = Duration::from_secs(5);
/// Within which writes must go on; the store looks for room every five seconds.
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);

async fn send(api: &Api, room: &str, txn: &str) -> (u16, Value) {
    let path = format!(
        "/_matrix/client/v3/rooms/{}/send/m.room.message/{txn}",
        escape(room)
    );
    let content = json!({ "msgtype": "m.text", "body": txn });
    let answer = api.try_request(Method::PUT, &path, Some(content)).await;
    let answer = answer.expect("the server is up");
    (answer.status.as_u16(), answer.body)
}

#[tokio::test]
async fn a_full_disk_stops_writing_only_until_there_is_room() {
    let mut server = Server::builder()
        .set("LOG__SEGMENT_BYTES", 1 << 20)
        .set("LOG__RESERVE_BYTES", 1 << 20)
        .prepare();
    if server.start_on_small_disk(DISK_BYTES).await.is_none() {
        eprintln!("not tested: this system gives no disks to users");
        return;
    }
    let ann = server.register("ann").await;
    let room = ann.create_room(json!({})).await;
    let kept = ann.send_text(&room, "kept").await;
    let ballast = server.live_data_dir().join("ballast");
    let blocks = vec![1; 1 << 20];
    let full = (0..=DISK_BYTES >> 20)
        .try_for_each(|_| append_to(&ballast, &blocks))
        .expect_err("the disk is full");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // What a check of the free space said before is believed for a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, body) = send(&ann, &room, "refused").await;
    assert_eq!(
        (status, &body["errcode"]),
        (503, &json!("M_RESOURCE_LIMIT_EXCEEDED"))
    );
    tokio::time::sleep(FLUSH_FAILED_AFTER).await;
    assert!(
        server.output().contains("No space left on device"),
        "the store was to meet the full disk"
    );
    let path = format!(
        "/_matrix/client/v3/rooms/{}/event/{}",
        escape(&room),
        escape(&kept)
    );
    assert_eq!(ann.get(&path).await.ok()["content"]["body"], "kept");

    std::fs::remove_file(&ballast).unwrap();
    let begun = Instant::now();
    let sent = loop {
        let (status, body) = send(&ann, &room, "again").await;
        if status == 200 {
            break body["event_id"].as_str().unwrap().to_owned();
        }
        assert_eq!(status, 503, "{body}");
        assert!(begun.elapsed() < GOES_ON_WITHIN, "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let path = format!(
        "/_matrix/client/v3/rooms/{}/event/{}",
        escape(&room),
        escape(&sent)
    );
    assert_eq!(ann.get(&path).await.ok()["content"]["body"], "again");
    assert!(server.terminate().await.success(), "a clean stop");
}

fn append_to(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)?;
    file.write_all(bytes)
}
