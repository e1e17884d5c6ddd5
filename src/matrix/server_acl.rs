//! Which servers a room lets take part (client-server API, *Server Access
//! Control Lists*).

use super::canonical_json::{CanonicalJsonObject, CanonicalJsonValue};
use super::ids::ServerName;
use super::push_rules::glob::{Effort, Pattern};

/// Type of the state event.
pub const SERVER_ACL_TYPE: &str = "m.room.server_acl";

/// The content of an `m.room.server_acl` event, compiled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAcl {
    allow: Vec<Pattern>,
    deny: Vec<Pattern>,
    allow_ip_literals: bool,
}

impl ServerAcl {
    /// Reads the content leniently: what has the wrong type counts as absent, so
    /// an entry that is no string matches nobody.
    pub fn parse(content: &CanonicalJsonObject) -> ServerAcl {
        let literals = content.get("allow_ip_literals");
        ServerAcl {
            allow: patterns(content, "allow"),
            deny: patterns(content, "deny"),
            allow_ip_literals: !matches!(literals, Some(CanonicalJsonValue::Bool(false))),
        }
    }

    /// Whether a server may take part. Its port is not looked at. Takes time
    /// linear in the length of the list, whatever its patterns.
    pub fn allows(&self, server: &ServerName) -> bool {
        let host = server.host();
        // A dot at the end names the same host.
        let host = host.strip_suffix('.').unwrap_or(host);
        if !self.allow_ip_literals && is_ip_literal(server, host) {
            return false;
        }
        let matches = |pattern: &Pattern| pattern.matches(host, &Effort::default());
        !self.deny.iter().any(matches) && self.allow.iter().any(matches)
    }
}

fn is_ip_literal(server: &ServerName, host: &str) -> bool {
    server.is_ip_literal() || host.parse::<std::net::IpAddr>().is_ok()
}

fn patterns(content: &CanonicalJsonObject, field: &str) -> Vec<Pattern> {
    let Some(CanonicalJsonValue::Array(entries)) = content.get(field) else {
        return Vec::new();
    };
    let texts = entries.iter().filter_map(|entry| entry.as_str());
    texts.map(Pattern::new).collect()
}

#[cfg(test)]
mod tests {
    use super::super::canonical_json::parse_object;
    use super::*;

    fn acl(json: &str) -> ServerAcl {
        ServerAcl::parse(&parse_object(json.as_bytes()).expect("JSON"))
    }

    fn allows(acl: &ServerAcl, server: &str) -> bool {
        acl.allows(<&ServerName>::try_from(server).expect("a server name"))
    }

    #[test]
    fn continuwuity_0_5_4_deny_goes_before_allow_and_nothing_allowed_is_nobody() {
        let listed =
            acl(r#"{"allow":["*"],"deny":["evil.example","*.evil.example","b?d.example"]}"#);
        for (server, allowed) in [
            ("good.example", true),
            ("evil.example", false),
            ("EVIL.Example", false),
            ("evil.example:8448", false),
            ("evil.example.", false),
            ("deep.down.evil.example:1", false),
            ("notevil.example", true),
            ("bad.example", false),
            ("baad.example", true),
            ("1.2.3.4", true),
            ("[::1]:8448", true),
            ("xn--evil-x5a.example", true),
        ] {
            assert_eq!(allows(&listed, server), allowed, "{server}");
        }
        assert!(!allows(&acl("{}"), "good.example"));
        assert!(!allows(&acl(r#"{"allow":"*"}"#), "good.example"));
        assert!(allows(
            &acl(r#"{"allow":["*"],"deny":[7,{},null]}"#),
            "good.example"
        ));
    }

    #[test]
    fn literal_addresses_can_be_kept_out_as_a_kind() {
        for (value, allowed) in [("false", false), ("true", true), ("\"false\"", true)] {
            let listed = acl(&format!(r#"{{"allow":["*"],"allow_ip_literals":{value}}}"#));
            for server in [
                "1.2.3.4",
                "1.2.3.4:80",
                "[2001:db8::1]",
                "[::1]:8448",
                "1.2.3.4.",
            ] {
                let Ok(server) = <&ServerName>::try_from(server) else {
                    continue;
                };
                assert_eq!(listed.allows(server), allowed, "{server} {value}");
            }
            assert!(allows(&listed, "example.org"));
        }
    }

    #[test]
    fn cve_2023_45129_a_huge_list_is_fast() {
        let long = "*a".repeat(15_000);
        let listed = acl(&format!(r#"{{"allow":["*"],"deny":["{long}","{long}"]}}"#));
        // A pattern that goes back and tries again would not end within a life.
        let server = format!("{}.example", "a".repeat(200));
        assert!(allows(&listed, &server));
    }
}
