//! Passwords: Argon2id in PHC strings.
//!
//! Both functions block for tens of milliseconds and use some MiB: callers run
//! them in a blocking thread, few at once.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

/// Memory in KiB, passes and lanes of new hashes: OWASP's first choice for
/// Argon2id. A hash carries its own, so these may be raised at any time.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A password could not be hashed.
#[derive(Debug, thiserror::Error)]
#[error("password could not be hashed: {0}")]
pub struct PasswordError(argon2::password_hash::Error);

fn hasher() -> Argon2<'static> {
    let params =
        Params::new(MEMORY_KIB, PASSES, LANES, None).expect("constants are within Argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Hashes a password with a new salt. Blocks.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    let salt = super::random::bytes::<16>();
    let hash: argon2::password_hash::phc::PasswordHash = hasher()
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(PasswordError)?;
    Ok(hash.to_string())
}

/// Whether the password is the one that was hashed. Blocks.
///
/// With no hash (the user does not exist or has no password) the same work is
/// done and the answer is no, so that time does not tell who exists.
pub fn verify(password: &str, hash: Option<&str>) -> bool {
    match hash {
        Some(hash) => hasher().verify_password(password.as_bytes(), hash).is_ok(),
        None => {
            // The result is of no interest, the time it took is.
            let _ = self::hash(password);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_verifies() {
        let hashed = hash("correct horse battery").expect("hashes");
        assert!(
            hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hashed}"
        );
        assert!(verify("correct horse battery", Some(&hashed)));
        assert!(!verify("correct horse batter", Some(&hashed)));
        assert!(!verify("", Some(&hashed)));
        assert!(!verify("correct horse battery", Some("not a hash")));
        assert!(!verify("correct horse battery", None));
        assert_ne!(hashed, hash("correct horse battery").expect("hashes"));
    }

    #[test]
    fn hashes_with_other_parameters_verify() {
        // Made with m=8, t=1: parameters travel in the hash.
        let params = Params::new(8, 1, 1, None).expect("valid");
        let small: argon2::password_hash::phc::PasswordHash =
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_with_salt(b"pw", b"saltsaltsaltsalt")
                .expect("hashes");
        assert!(verify("pw", Some(&small.to_string())));
    }
}
