//! Hosts that answer badly to who looks for a homeserver, over real TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum_server::tls_rustls::RustlsConfig;
use bytes::Bytes;
use parking_lot::Mutex;

use super::client::client;
use super::well_known::WellKnown;
use crate::config::values::AddressRange;
use crate::outbound::addresses::AddressFilter;
use crate::outbound::dns::fake::FakeDns;
use crate::outbound::names::WebNames;

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/server/tls/");

/// Names of the host, each of which answers in its own bad way.
const CIRCLES: &str = "a.test";
const HUGE: &str = "b.test";
const ENDLESS: &str = "c.test";

/// A host that speaks TLS, and by which name it was asked.
struct Host {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    async fn start() -> Host {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = |name: &str| format!("{CERTIFICATES}{name}");
        let config = RustlsConfig::from_pem_file(pem("test_cert.pem"), pem("test_key.pem"));
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        let router = axum::Router::new().fallback(move |request: Request| {
            let name = name_of(&request);
            heard.lock().push(name.clone());
            std::future::ready(answer(&name, port, &request))
        });
        let server = axum_server::from_tcp_rustls(listener, config.await.unwrap());
        let server = server.unwrap();
        tokio::spawn(server.serve(router.into_make_service()));
        Host { port, asked }
    }

    fn asked(&self, name: &str) -> usize {
        let asked = self.asked.lock();
        asked.iter().filter(|asked| *asked == name).count()
    }
}

fn name_of(request: &Request) -> String {
    let header = request.headers().get("host");
    let header = header.and_then(|host| host.to_str().ok());
    let name = request.uri().host().or(header).unwrap_or_default();
    name.split(':').next().unwrap_or_default().to_owned()
}

fn answer(name: &str, port: u16, request: &Request) -> Response {
    let body = match name {
        CIRCLES => {
            let (path, hops) = (request.uri().path(), request.uri().query());
            let hops: u32 = hops.map_or(0, |hops| hops.parse().unwrap());
            if hops < 5 || !path.starts_with("/ends/") {
                let to = format!("https://{CIRCLES}:{port}{path}?{}", hops + 1);
                let response = Response::builder().status(302).header("location", to);
                return response.body(Body::empty()).unwrap();
            }
            r#"{"m.server":"hs.example:1"}"#.into()
        }
        HUGE => vec![b' '; 50 * 1024 + 1].into(),
        ENDLESS => {
            let chunk = Bytes::from_static(&[b' '; 1024]);
            let chunks =
                futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
            Body::from_stream(chunks)
        }
        _ => panic!("{name}"),
    };
    Response::new(body)
}

fn asker(filter: AddressFilter) -> WellKnown {
    let mut dns = FakeDns::default();
    for name in [CIRCLES, HUGE, ENDLESS] {
        dns.addresses.insert(name, vec![[127, 0, 0, 1].into()]);
    }
    let dns = Arc::new(dns);
    let ca = std::fs::read(format!("{CERTIFICATES}test_ca.pem")).unwrap();
    let ca = [reqwest::Certificate::from_pem(&ca).unwrap()];
    let http = client(&ca, Duration::from_secs(10), |builder| {
        let (dns, filter) = (dns.clone(), filter.clone());
        builder.dns_resolver(Arc::new(WebNames { dns, filter }))
    });
    WellKnown::new(http, filter)
}

/// A redirect to a file without an end once held memory and kept others waiting.
#[tokio::test]
async fn cve_2021_21274_an_answer_without_an_end_is_given_up_and_remembered() {
    let host = Host::start().await;
    let port = host.port;
    let well_known = asker(AddressFilter::default());
    let bad = [
        (HUGE, "more than"),
        (ENDLESS, "more than"),
        (CIRCLES, "redirect"),
    ];
    for (name, why) in bad {
        let begun = Instant::now();
        let answer = well_known.delegated(&format!("{name}:{port}")).await;
        let error = answer.expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{name}");
    }
    assert_eq!(host.asked(CIRCLES), 1 + 5);
    // None is asked again at once.
    for (name, _) in bad {
        let before = host.asked(name);
        let again = well_known.delegated(&format!("{name}:{port}")).await;
        assert!(again.is_err(), "{name}");
        assert_eq!(host.asked(name), before, "{name}");
    }
    // Five redirects are followed.
    let ends = format!("{CIRCLES}:{port}/ends");
    let found = well_known.delegated(&ends).await.unwrap();
    assert_eq!(found, "hs.example:1");
    // And nothing inside is asked at all.
    let before = host.asked(CIRCLES);
    let careful = asker(AddressFilter::new(AddressRange::private()));
    let refused = careful.delegated(&format!("{CIRCLES}:{port}")).await;
    assert!(refused.is_err());
    assert_eq!(host.asked(CIRCLES), before);
}
