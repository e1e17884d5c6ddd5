//! How servers sign the requests that they make of one another (server-server
//! API, *Request Authentication*).

use ruma::{OwnedServerName, ServerName};

use super::canonical_json::CanonicalJsonObject;
use super::canonical_json::{write_object, write_string};
use super::server_keys::{PublicKey, is_key_id};
use super::signing::verify_bytes;
use crate::crypto::ServerKey;

/// Why an `Authorization` header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error("the header is no X-Matrix header of one value for each of its parameters")]
    Malformed,
    #[error("the request is meant for another server")]
    OtherDestination,
}

/// What the header of a request claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub origin: OwnedServerName,
    pub key_id: String,
    signature: String,
}

impl Credentials {
    /// Reads the value of an `Authorization` header for a request to `us`.
    pub fn parse(header: &str, us: &ServerName) -> Result<Credentials, CredentialsError> {
        let parameters = Parameters::parse(header).ok_or(CredentialsError::Malformed)?;
        if let Some(destination) = parameters.destination
            && destination != us.as_str()
        {
            return Err(CredentialsError::OtherDestination);
        }
        let (Some(origin), Some(key_id), Some(signature)) =
            (parameters.origin, parameters.key, parameters.sig)
        else {
            return Err(CredentialsError::Malformed);
        };
        let origin = OwnedServerName::try_from(origin).map_err(|_| CredentialsError::Malformed)?;
        match is_key_id(&key_id) {
            true => Ok(Credentials {
                origin,
                key_id,
                signature,
            }),
            false => Err(CredentialsError::Malformed),
        }
    }
}

/// The parameters of the header, each given once at most.
///
/// ruma's parser is not used, since it does not take colons outside of quotes,
/// which the specification asks for on behalf of older servers.
#[derive(Default)]
struct Parameters {
    origin: Option<String>,
    destination: Option<String>,
    key: Option<String>,
    sig: Option<String>,
}

impl Parameters {
    /// Source: RFC 9110, sections 5.6 and 11.4.
    fn parse(header: &str) -> Option<Parameters> {
        let (scheme, mut rest) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return None;
        }
        let mut parameters = Parameters::default();
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            let (name, behind) = rest.split_once('=')?;
            let (value, behind) = value(behind)?;
            let place = match name.to_ascii_lowercase().as_str() {
                "origin" => Some(&mut parameters.origin),
                "destination" => Some(&mut parameters.destination),
                "key" => Some(&mut parameters.key),
                "sig" => Some(&mut parameters.sig),
                other if other.bytes().all(is_token) && !other.is_empty() => None,
                _ => return None,
            };
            if let Some(place) = place
                && place.replace(value).is_some()
            {
                return None;
            }
            let behind = behind.trim_start_matches([' ', '\t']);
            if behind.is_empty() {
                return Some(parameters);
            }
            rest = behind.strip_prefix(',')?;
        }
    }
}

/// The value at the start of a text, without quotes, and what is behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let bare = |byte: u8| is_token(byte) || byte == b':' || byte == b'/' || byte == b'=';
        let end = text.bytes().position(|byte| !bare(byte));
        let (value, behind) = text.split_at(end.unwrap_or(text.len()));
        return (!value.is_empty()).then(|| (value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a signature of a request is over.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    pub method: &'a str,
    /// Path and query, as on the wire.
    pub uri: &'a str,
    pub origin: &'a ServerName,
    /// The name before any delegation.
    pub destination: &'a ServerName,
    /// The body; none where there is none.
    pub content: Option<&'a CanonicalJsonObject>,
}

impl SignedRequest<'_> {
    /// Canonical JSON of the request.
    fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.push(b'{');
        if let Some(content) = self.content {
            out.extend_from_slice(b"\"content\":");
            write_object(&mut out, content);
            out.push(b',');
        }
        let members = [
            ("destination", self.destination.as_str()),
            ("method", self.method),
            ("origin", self.origin.as_str()),
            ("uri", self.uri),
        ];
        for (index, (name, value)) in members.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_string(&mut out, name);
            out.push(b':');
            write_string(&mut out, value);
        }
        out.push(b'}');
        out
    }

    /// The value of the `Authorization` header. Everything is quoted, as older
    /// servers want it.
    pub fn authorization(self, key: &ServerKey) -> String {
        let signature = key.sign_base64(&self.to_bytes());
        format!(
            r#"X-Matrix origin="{}",destination="{}",key="{}",sig="{signature}""#,
            self.origin,
            self.destination,
            key.key_id(),
        )
    }

    /// Whether the claimed key signed the request.
    pub fn is_signed(self, credentials: &Credentials, key: &PublicKey) -> bool {
        verify_bytes(&self.to_bytes(), &credentials.signature, key)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;
    use crate::matrix::canonical_json::parse_object;

    fn key() -> ServerKey {
        ServerKey::from_seed([1; 32], "a_1")
    }

    fn request(content: Option<&CanonicalJsonObject>) -> SignedRequest<'_> {
        SignedRequest {
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?a=b%20c",
            origin: server_name!("from:8448"),
            destination: server_name!("to"),
            content,
        }
    }

    #[test]
    fn a_signed_request_is_verified() {
        let body = parse_object(br#"{"b":1,"a":"\u00e4"}"#).expect("parses");
        for content in [None, Some(&body)] {
            let request = request(content);
            let header = request.authorization(&key());
            let claimed = Credentials::parse(&header, server_name!("to")).expect("parses");
            assert_eq!(claimed.origin, "from:8448");
            assert_eq!(claimed.key_id, "ed25519:a_1");
            let public = *key().verifying_key().as_bytes();
            assert!(request.is_signed(&claimed, &public));
            let other = *ServerKey::from_seed([2; 32], "a_1")
                .verifying_key()
                .as_bytes();
            assert!(!request.is_signed(&claimed, &other));
            for changed in [
                SignedRequest {
                    method: "POST",
                    ..request
                },
                SignedRequest {
                    uri: "/_matrix/federation/v1/send/1",
                    ..request
                },
                SignedRequest {
                    origin: server_name!("from"),
                    ..request
                },
                SignedRequest {
                    destination: server_name!("other"),
                    ..request
                },
                SignedRequest {
                    content: content.xor(Some(&body)),
                    ..request
                },
            ] {
                assert!(!changed.is_signed(&claimed, &public), "{changed:?}");
            }
        }
    }

    #[test]
    fn what_is_signed_is_what_ruma_signs() {
        use ruma::api::federation::authentication::XMatrix;

        let body = br#"{"b":1,"a":"\u00e4"}"#;
        let http = http::Request::builder()
            .method("PUT")
            .uri("https://to/_matrix/federation/v1/send/1?a=b%20c")
            .body(&body[..])
            .expect("builds");
        let theirs = XMatrix::request_object(&http, server_name!("from:8448"), server_name!("to"));
        let theirs = serde_json::to_vec(&theirs.expect("builds")).expect("serialises");
        let body = parse_object(body).expect("parses");
        assert_eq!(request(Some(&body)).to_bytes(), theirs);
    }

    #[test]
    fn spec_x_matrix_headers_are_read_strictly() {
        let us = server_name!("to");
        let parse = |header: &str| Credentials::parse(header, us).map(|read| read.origin);
        // Unquoted values with colons and an absent destination come from older servers.
        let fine = [
            r#"X-Matrix origin="from",destination="to",key="ed25519:1",sig="AAAA""#,
            r#"X-Matrix origin=from,key=ed25519:1,sig="AAAA""#,
            r#"x-matrix   Origin="from" , KEY="ed25519:1",sig="AA/=",later="thing""#,
            "X-Matrix key=ed25519:1,sig=AA/+==,origin=from",
            r#"X-Matrix origin="f\rom",key="ed25519:1",sig="A\A""#,
        ];
        for header in fine {
            assert_eq!(
                parse(header).as_deref(),
                Ok(server_name!("from")),
                "{header}"
            );
        }
        // A name is what was signed, letter by letter, whatever its form.
        for name in ["from:8448", "1.2.3.4", "[2001:db8::1]:8448", "From.Example"] {
            let header = format!(r#"X-Matrix origin="{name}",key="ed25519:1",sig="AAAA""#);
            assert_eq!(parse(&header).as_deref().map(ServerName::as_str), Ok(name));
        }
        let other = r#"X-Matrix origin="from",destination="toto",key="ed25519:1",sig="AAAA""#;
        assert_eq!(parse(other), Err(CredentialsError::OtherDestination));
        let malformed = [
            "",
            "Bearer abc",
            "X-Matrix ",
            r#"X-Matrix origin="from",key="ed25519:1""#,
            r#"X-Matrix origin="from",key="ed25519:1",sig="AAAA"#,
            r#"X-Matrix origin="from",key="ed25519:1",sig="AAAA\"#,
            r#"X-Matrix origin="from" key="ed25519:1",sig="AAAA""#,
            r#"X-Matrix origin="from",key="ed25519:1",sig="AAAA","#,
            r#"X-Matrix origin="from",key="ed25519:1",sig=,a=b"#,
            r#"X-Matrix origin="from",key="ed25519:1",sig="AAAA",="b""#,
            r#"X-Matrix origin="from",origin="other",key="ed25519:1",sig="AAAA""#,
            r#"X-Matrix origin="fr om",key="ed25519:1",sig="AAAA""#,
            r#"X-Matrix origin="from",key="rsa:1",sig="AAAA""#,
        ];
        for header in malformed {
            assert_eq!(parse(header), Err(CredentialsError::Malformed), "{header}");
        }
    }
}
