//! Bearer tokens: made from randomness, kept as keyed hashes only.
//!
//! A token has far more entropy than can be guessed, so one fast hash suffices;
//! the key separates uses, so that a refresh token is no access token.

use super::random;

/// BLAKE3 of a token, keyed for its use.
pub type TokenHash = [u8; 32];

/// Characters of a token: 190 bits, more than the 128 that guessing must not reach.
const TOKEN_CHARS: usize = 32;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// `Authorization: Bearer` of a device.
    Access,
    /// `refresh_token` of `/refresh`.
    Refresh,
    /// `m.login.token`.
    Login,
    /// `m.login.registration_token`.
    Registration,
    /// OpenID tokens for widgets and integration managers.
    OpenId,
}

impl TokenUse {
    /// BLAKE3's key derivation wants a fixed, unique sentence per use. Changing
    /// one logs everybody out.
    fn context(self) -> &'static str {
        match self {
            TokenUse::Access => "engram v1 access token hash",
            TokenUse::Refresh => "engram v1 refresh token hash",
            TokenUse::Login => "engram v1 login token hash",
            TokenUse::Registration => "engram v1 registration token hash",
            TokenUse::OpenId => "engram v1 openid token hash",
        }
    }
}

/// A new token. The caller hands it out and keeps only [`hash`] of it.
pub fn generate() -> String {
    random::alphanumeric(TOKEN_CHARS)
}

/// The hash under which a token is kept and looked up.
pub fn hash(use_: TokenUse, token: &str) -> TokenHash {
    blake3::derive_key(use_.context(), token.as_bytes())
}

/// Whether two secrets are equal, in a time that depends on their lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    // Comparing hashes hides lengths and content alike: BLAKE3's `Hash`
    // compares in constant time.
    blake3::hash(a) == blake3::hash(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_depends_on_token_and_use() {
        let token = generate();
        assert_eq!(
            hash(TokenUse::Access, &token),
            hash(TokenUse::Access, &token)
        );
        assert_ne!(
            hash(TokenUse::Access, &token),
            hash(TokenUse::Refresh, &token)
        );
        assert_ne!(
            hash(TokenUse::Access, &token),
            hash(TokenUse::Access, &generate())
        );
    }

    #[test]
    fn secrets_are_compared_by_content() {
        assert!(equal(b"secret", b"secret"));
        assert!(!equal(b"secret", b"secre"));
        assert!(!equal(b"secret", b"Secret"));
        assert!(equal(b"", b""));
    }
}
