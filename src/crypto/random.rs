//! Random identifiers and secrets, straight from the operating system.

use rand::TryRng;
use rand::rngs::SysRng;

/// Upper and lower case letters and digits: safe in URLs, file names and ids.
const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// `N` random bytes.
///
/// Panics if the operating system has no randomness to give: a server that
/// cannot make secrets must not run.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .expect("the operating system provides randomness");
    bytes
}

/// `len` random letters and digits, 5.95 bits each.
pub fn alphanumeric(len: usize) -> String {
    let mut text = String::with_capacity(len);
    while text.len() < len {
        for byte in bytes::<32>() {
            // 248 = 4 * 62: values above would favour the first letters.
            if byte < 248 && text.len() < len {
                text.push(char::from(ALPHANUMERIC[usize::from(byte % 62)]));
            }
        }
    }
    text
}

/// The opaque part of a room id with a domain (appendices, *Room IDs*).
pub fn room_localpart() -> String {
    alphanumeric(18)
}

/// The opaque part of an event id in room versions 1 and 2.
pub fn event_localpart() -> String {
    alphanumeric(18)
}

/// A device id for a client that named none: short enough to be read aloud.
pub fn device_id() -> String {
    alphanumeric(10).to_ascii_uppercase()
}

/// A localpart for a user who chose none: lower case letters and digits.
pub fn user_localpart() -> String {
    alphanumeric(16).to_ascii_lowercase()
}

/// The id of a user-interactive authentication session.
pub fn session_id() -> String {
    alphanumeric(24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cve_2019_5885_texts_have_their_length_and_alphabet_and_differ() {
        for len in [0, 1, 31, 32, 33, 100] {
            let text = alphanumeric(len);
            assert_eq!(text.len(), len);
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert_ne!(alphanumeric(24), alphanumeric(24));
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
