//! Starting, stopping and the data folder.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_data_folder_is_private_and_a_stop_is_clean() {
    let mut server = Server::builder().start().await;
    let mode = |path: &str| {
        let metadata = std::fs::metadata(server.data_dir.join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("keys/signing.key"), 0o600);
    assert_eq!(mode("run/admin.sock"), 0o600);
    let health = server.metrics().get("/health").await;
    assert_eq!(health.status, 200, "{}", health.text);
    let status = server.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", server.output());
    server.start().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_is_refused_at_once() {
    let server = Server::builder().start().await;
    let begun = Instant::now();
    let status = server.command(&["serve"]).status().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_ne!(status.code(), Some(0));
    assert!(
        server.output().contains("another engram"),
        "{}",
        server.output()
    );
    let versions = server.api().get("/_matrix/client/versions").await;
    assert_eq!(versions.status, 200);
}
