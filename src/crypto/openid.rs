//! OpenID tokens: a user shows one to a third party, which has us say whose it is.
//!
//! No token is kept. It names user and expiry and carries a code over both and
//! the device, keyed by a key that only this server has. The device is in the
//! code alone: who checks a token tries those that the user still has, so that
//! a token ends with its device and with the account.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ServerKey;

/// Changing it ends every token.
const KEY_CONTEXT: &str = "engram v1 openid token code";
/// A user id has at most 255 bytes; longer tokens are not decoded.
const TOKEN_CHARS_MAX: usize = (8 + 32 + 255) * 4 / 3 + 1;

/// Makes tokens and reads them.
pub struct OpenIdTokens {
    key: [u8; 32],
}

/// What a token says. Not to be believed before [`OpenIdTokens::is_of`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenIdToken {
    pub user: String,
    /// Milliseconds since the epoch.
    pub expires_ms: u64,
    code: [u8; 32],
}

impl OpenIdTokens {
    pub fn new(key: &ServerKey) -> OpenIdTokens {
        OpenIdTokens {
            key: key.derive(KEY_CONTEXT),
        }
    }

    /// Shape: unpadded base64url of `expires_ms: u64 BE | code: 32 bytes | user`.
    pub fn issue(&self, user: &str, device: &str, expires_ms: u64) -> String {
        let mut bytes = expires_ms.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.code(user, device, expires_ms).as_bytes());
        bytes.extend_from_slice(user.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads [`OpenIdTokens::issue`]; none for what is no token at all.
    pub fn read(&self, token: &str) -> Option<OpenIdToken> {
        if token.len() > TOKEN_CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (expires_ms, rest) = bytes.split_first_chunk::<8>()?;
        let (code, user) = rest.split_first_chunk::<32>()?;
        Some(OpenIdToken {
            user: std::str::from_utf8(user).ok()?.to_owned(),
            expires_ms: u64::from_be_bytes(*expires_ms),
            code: *code,
        })
    }

    /// Whether the token was issued to this device of its user.
    pub fn is_of(&self, token: &OpenIdToken, device: &str) -> bool {
        // BLAKE3's `Hash` compares in constant time.
        self.code(&token.user, device, token.expires_ms) == token.code
    }

    fn code(&self, user: &str, device: &str, expires_ms: u64) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&expires_ms.to_be_bytes());
        hasher.update(&(user.len() as u64).to_be_bytes());
        hasher.update(user.as_bytes());
        hasher.update(device.as_bytes());
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_user_device_and_expiry() {
        let tokens = OpenIdTokens::new(&ServerKey::from_seed([1; 32], "a"));
        let text = tokens.issue("@alice:hs", "LAPTOP", 1_000);
        let token = tokens.read(&text).unwrap();
        assert_eq!(
            (token.user.as_str(), token.expires_ms),
            ("@alice:hs", 1_000)
        );
        assert!(tokens.is_of(&token, "LAPTOP"));
        assert!(!tokens.is_of(&token, "PHONE"));
        for (user, expires_ms) in [("@alicf:hs", 1_000), ("@alice:hs", 1_001)] {
            let forged = OpenIdToken {
                user: user.to_owned(),
                expires_ms,
                ..token.clone()
            };
            assert!(!tokens.is_of(&forged, "LAPTOP"));
        }
        let other = OpenIdTokens::new(&ServerKey::from_seed([2; 32], "a"));
        assert!(!other.is_of(&token, "LAPTOP"));
    }

    #[test]
    fn what_is_no_token_is_not_read() {
        let tokens = OpenIdTokens::new(&ServerKey::from_seed([1; 32], "a"));
        for text in ["", "an/invalid/token", "AAAA", &"A".repeat(1_000)] {
            assert_eq!(tokens.read(text), None, "{text}");
        }
    }
}
