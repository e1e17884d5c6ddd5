//! The listeners beside the one for clients: TLS for servers, metrics and health.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::{Server, password, signal};

fn pem(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/server/tls")
        .join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_answered_over_tls() {
    let server = Server::builder()
        .set("FEDERATION__BIND", "127.0.0.1:0")
        .set("FEDERATION__TLS_CERT", pem("test_cert.pem").display())
        .set("FEDERATION__TLS_KEY", pem("test_key.pem").display())
        .start()
        .await;
    // The client of the harness installs the process's TLS provider.
    let plain = server.api();
    let authority = std::fs::read(pem("test_ca.pem")).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&authority).unwrap()])
        .build()
        .unwrap();
    let address = server.listener("federation");
    let versions = "_matrix/client/versions";
    for _ in 0..2 {
        let answer = client
            .get(format!("https://{address}/{versions}"))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        // The certificate is read again, and the listener goes on.
        signal(server.pid(), "HUP");
    }
    assert!(
        reqwest::get(format!("http://{address}/{versions}"))
            .await
            .is_err()
    );
    assert_eq!(plain.get("/_matrix/client/versions").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_and_tell_nothing_private() {
    let server = Server::builder()
        .set("TELEMETRY__LOG_LEVEL", "trace")
        .start()
        .await;
    let alice = server.register("alice").await;
    let room = alice.create_room(json!({})).await;
    alice.send_text(&room, "a secret to be kept").await;
    let metrics = server.metrics().get("/metrics").await.text;
    for name in [
        "engram_log_append_seconds_count{topic=\"input\"}",
        "engram_log_batch_records_count{topic=\"input\"}",
        "engram_projection_lag_records",
        "engram_sync_waiters",
        "engram_http_request_seconds_count{endpoint=\"/_matrix/client/v3/createRoom\"} 1",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert_eq!(server.metrics().get("/health").await.text, "ok\n");
    let said = server.output() + &metrics;
    let token = alice.token.clone().unwrap();
    for private in ["a secret to be kept", &token, &password("alice")] {
        assert!(!said.contains(private), "{private} was logged");
    }
}
