//! What is printed is what is parsed; what is wrong is named with its place.

use std::io::Write as _;

use super::load::{ConfigError, load};
use super::print::to_toml;
use super::sections::{Config, SECTIONS};
use super::values::{AddressRange, ByteSize};

fn load_text(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let mut file = tempfile::Builder::new()
        .suffix("engram.toml")
        .tempfile()
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    load(Some(file.path()), environment).map_err(|error| match error {
        ConfigError::Wrong(_) => {
            let name = file.path().display().to_string();
            error.to_string().replace(&name, "engram.toml")
        }
        ConfigError::Read { .. } => panic!("{error}"),
    })
}

fn from_environment(environment: &[(&str, &str)]) -> Result<Config, String> {
    load_text("", environment)
}

#[test]
fn the_printed_default_parses_to_the_default() {
    assert_eq!(
        load_text(&to_toml(&Config::default()), &[]).unwrap(),
        Config::default()
    );
}

#[test]
fn every_key_has_a_comment_and_survives_printing() {
    let config = from_environment(&[
        ("ENGRAM__SERVER_NAME", "hs.test:8448"),
        ("ENGRAM__FEDERATION__BIND", "[::1]:8448"),
        ("ENGRAM__FEDERATION__TLS_CERT", "/a b/\"cert\".pem"),
        ("ENGRAM__FEDERATION__TLS_KEY", "/key.pem"),
        (
            "ENGRAM__FEDERATION__STATIC_HOSTS",
            "a.test=10.0.0.7:1,b.test=c.test",
        ),
        ("ENGRAM__FEDERATION__DENY_ADDRESSES", " 10.0.0.0/8 , ::1 "),
        ("ENGRAM__REGISTRATION__TOKEN", "hush"),
        ("ENGRAM__LOG__SEGMENT_BYTES", "262144"),
        ("ENGRAM__TELEMETRY__METRICS_BIND", ""),
        ("ENGRAM__TELEMETRY__LOG_FORMAT", "json"),
    ])
    .unwrap();
    assert_eq!(config.federation.static_hosts.len(), 2);
    assert_eq!(config.federation.deny_addresses.len(), 2);
    assert_eq!(config.log.segment_bytes, ByteSize(256 << 10));
    assert_eq!(config.telemetry.metrics_bind, None);
    let printed = to_toml(&config);
    let mut again = load_text(&printed, &[]).unwrap();
    // The one key whose default is set, and which a file unsets by an empty text.
    again.telemetry.metrics_bind = None;
    assert_eq!(again, config);
    for (name, _) in SECTIONS {
        for key in config.section(name).unwrap().keys() {
            assert!(
                !key.comment.is_empty(),
                "{name}.{} has no comment",
                key.name
            );
        }
    }
    assert!(
        !format!("{config:?}").contains("hush"),
        "Debug shows a secret"
    );
}

#[test]
fn the_environment_wins_over_the_file() {
    let text = "server_name = \"file.test\"\n[client]\nbind = \"127.0.0.1:1\"\n";
    let config = load_text(text, &[("ENGRAM__CLIENT__BIND", "127.0.0.1:2")]).unwrap();
    assert_eq!(config.identity.server_name, "file.test");
    assert_eq!(config.client.bind.port(), 2);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let cases = [
        (
            "\n[client]\nbnd = 1\n",
            "engram.toml:3: unknown key client.bnd, there are bind, public_url, trust_forwarded_for, access_token_seconds",
        ),
        (
            "[client]\nbind = 8008\n",
            "engram.toml:2: client.bind takes an address with a port, such as \"127.0.0.1:8008\" or \"[::]:8448\"",
        ),
        (
            "[client]\n\nbind = \"localhost\"\n",
            "engram.toml:3: client.bind takes an address with a port, such as \"127.0.0.1:8008\" or \"[::]:8448\"",
        ),
        (
            "[log]\npartitions = 0\n",
            "engram.toml:2: log.partitions takes a whole number from 1 to 256",
        ),
        (
            "[log]\npartitions = \"1\"\n",
            "engram.toml:2: log.partitions takes a whole number from 1 to 256",
        ),
        (
            "[log]\nsync = false\n",
            "engram.toml:2: log.sync is a test switch, only ENGRAM__LOG__SYNC sets it",
        ),
        (
            "[rooms]\ndefault_version = \"9\"\n",
            "engram.toml:2: rooms.default_version takes \"10\", \"11\" or \"12\"",
        ),
        (
            "client = 1\n",
            "engram.toml:1: client is a section, write [client]",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(load_text(text, &[]).unwrap_err(), message);
    }
    let syntax = load_text("a = 1\nb = = 2\n", &[]).unwrap_err();
    assert!(syntax.starts_with("engram.toml:2: not TOML: "), "{syntax}");
    let unknown = load_text("[clint]\n", &[]).unwrap_err();
    assert!(
        unknown.starts_with("engram.toml:1: unknown key clint, there are server_name"),
        "{unknown}"
    );
}

#[test]
fn wrong_variables_are_named() {
    let cases = [
        (
            "ENGRAM__RATE_LIMITS__ENABLED",
            "yes",
            "ENGRAM__RATE_LIMITS__ENABLED: rate_limits.enabled takes true or false",
        ),
        (
            "ENGRAM__CLIENT__BND",
            "x",
            "ENGRAM__CLIENT__BND: unknown key client.bnd, there are bind, public_url, trust_forwarded_for, access_token_seconds",
        ),
        (
            "ENGRAM__FEDERATION__STATIC_HOSTS",
            "a.test",
            "ENGRAM__FEDERATION__STATIC_HOSTS: federation.static_hosts takes a table from a server name such as \"example.org\" to a host with a port, such as \"10.0.0.7:8448\"",
        ),
    ];
    for (name, value, message) in cases {
        assert_eq!(from_environment(&[(name, value)]).unwrap_err(), message);
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let error = load_text("[client]\nbnd = 1\n[log]\nlanes = -1\n", &[]).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
}

#[test]
fn a_federation_listener_without_tls_is_refused() {
    let bind = ("ENGRAM__FEDERATION__BIND", "127.0.0.1:0");
    let error = from_environment(&[bind]).unwrap_err();
    assert!(error.contains("without federation.tls_cert"), "{error}");
    let config = from_environment(&[bind, ("ENGRAM__FEDERATION__ALLOW_PLAIN", "true")]).unwrap();
    assert!(config.federation.allow_plain);
    let half = from_environment(&[("ENGRAM__FEDERATION__TLS_CERT", "a.pem")]).unwrap_err();
    assert!(half.contains("belong together"), "{half}");
}

#[test]
fn address_ranges_contain_what_they_say() {
    let denied = AddressRange::private();
    let hit = |address: &str| {
        denied
            .iter()
            .any(|range| range.contains(address.parse().unwrap()))
    };
    for address in [
        "127.0.0.1",
        "10.9.8.7",
        "172.31.0.1",
        "::1",
        "::ffff:192.168.1.1",
        "fe80::1",
        "255.255.255.255",
    ] {
        assert!(hit(address), "{address}");
    }
    for address in ["1.1.1.1", "172.32.0.1", "2606:4700::1"] {
        assert!(!hit(address), "{address}");
    }
    assert!(
        "0.0.0.0/0"
            .parse::<AddressRange>()
            .unwrap()
            .contains("9.9.9.9".parse().unwrap())
    );
    assert!("10.0.0.0/33".parse::<AddressRange>().is_err());
}
