//! The server's ed25519 signing key and its file.
//!
//! File: one line `ed25519 <version> <unpadded base64 of the 32-byte seed>`,
//! the form that other homeservers use, so that a server can keep its identity
//! when it changes software. Further lines and `#` comments are refused: one
//! file, one key.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};

use super::random;

/// Unpadded base64 as the appendices define it; padding is accepted when read.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        // The specification's own test seed has stray bits in its last character.
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest key file that is read.
const KEY_FILE_BYTES_MAX: u64 = 4096;
/// Seeds that were published: a server with one of them can be impersonated.
const KNOWN_SEEDS: [&str; 1] = [
    // Specification, appendices, *Cryptographic Test Vectors*.
    "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1",
];
/// Public keys whose private keys anybody may have: whoever signs with one of
/// them proves nothing.
const PUBLISHED_KEYS: [&str; 2] = [
    // Of the seed above.
    "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI",
    // Handed out by a deployment tool (CVE-2026-24044, ELEMENTSEC-2025-1670).
    "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og",
];

/// Whether this public key's private one is known to the world.
pub fn is_published(public: &[u8; 32]) -> bool {
    let mut known = PUBLISHED_KEYS.iter();
    known.any(|key| decode_seed(key).as_ref() == Some(public))
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("signing key {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("signing key {path} is readable by others (mode {mode:o}), it must be 600 or 400")]
    LooseMode { path: PathBuf, mode: u32 },
    #[error("signing key {path} is not `ed25519 <version> <seed>`")]
    Malformed { path: PathBuf },
    #[error("signing key {path} was published, generate another")]
    KnownKey { path: PathBuf },
}

/// A signing key with its id, for example `ed25519:a_Xy12`.
pub struct ServerKey {
    key: SigningKey,
    key_id: String,
}

impl ServerKey {
    /// A key from its seed. `version` is the part of the key id after the colon.
    pub fn from_seed(seed: [u8; 32], version: &str) -> ServerKey {
        ServerKey {
            key: SigningKey::from_bytes(&seed),
            key_id: format!("ed25519:{version}"),
        }
    }

    /// A new key from the system's randomness.
    pub fn generate() -> ServerKey {
        let version = format!("a_{}", random::alphanumeric(6));
        ServerKey::from_seed(random::bytes(), &version)
    }

    /// Loads the key file, or makes one with mode 0600 if there is none.
    pub fn load_or_generate(path: &Path) -> Result<ServerKey, KeyFileError> {
        match ServerKey::load(path) {
            Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = ServerKey::generate();
                key.store(path)?;
                Ok(key)
            }
            other => other,
        }
    }

    /// Loads a key file.
    ///
    /// Errors: refuses a file that others may read, one that holds no key, and
    /// a key that was published.
    pub fn load(path: &Path) -> Result<ServerKey, KeyFileError> {
        let io = |source| KeyFileError::Io {
            path: path.into(),
            source,
        };
        let mut file = File::open(path).map_err(io)?;
        // Of the opened file, so that nobody can swap it in between.
        let mode = file.metadata().map_err(io)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::LooseMode {
                path: path.into(),
                mode,
            });
        }
        let mut text = String::new();
        (&mut file)
            .take(KEY_FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(io)?;
        ServerKey::parse(&text, path)
    }

    /// Writes the key file: created with mode 0600, never over an existing one,
    /// durable with its directory entry when this returns.
    pub fn store(&self, path: &Path) -> Result<(), KeyFileError> {
        let io = |source| KeyFileError::Io {
            path: path.into(),
            source,
        };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let line = format!(
            "ed25519 {} {}\n",
            self.version(),
            BASE64.encode(self.key.as_bytes())
        );
        file.write_all(line.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        sync_folder_of(path).map_err(io)
    }

    /// Writes the key file in place of the one that is there, all or nothing.
    pub fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        let beside = path.with_extension("new");
        let io = |source| KeyFileError::Io {
            path: path.into(),
            source,
        };
        // One that a crash has left was never used.
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => (),
        }
        self.store(&beside)?;
        std::fs::rename(&beside, path).map_err(io)?;
        sync_folder_of(path).map_err(io)
    }

    fn parse(text: &str, path: &Path) -> Result<ServerKey, KeyFileError> {
        let malformed = || KeyFileError::Malformed { path: path.into() };
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let ["ed25519", version, seed] = words.as_slice() else {
            return Err(malformed());
        };
        // Server-server API, *Publishing keys*: `[a-zA-Z0-9_]`.
        let version_is_valid = !version.is_empty()
            && version.len() <= 64
            && version
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !version_is_valid {
            return Err(malformed());
        }
        let seed = decode_seed(seed).ok_or_else(malformed)?;
        let is_known = KNOWN_SEEDS
            .iter()
            .any(|known| decode_seed(known) == Some(seed));
        let key = ServerKey::from_seed(seed, version);
        match is_known || is_published(key.verifying_key().as_bytes()) {
            true => Err(KeyFileError::KnownKey { path: path.into() }),
            false => Ok(key),
        }
    }

    /// The whole key id, for example `ed25519:a_Xy12`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The key itself, for who signs other things than JSON. Must not be kept
    /// where it could be printed or written.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// A key for another use, from which this one cannot be found. `context` is
    /// a fixed sentence of that use alone.
    pub fn derive(&self, context: &'static str) -> [u8; 32] {
        blake3::derive_key(context, self.key.as_bytes())
    }

    /// The key id without its algorithm.
    pub fn version(&self) -> &str {
        self.key_id
            .split_once(':')
            .map_or("", |(_, version)| version)
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        self.key.verifying_key()
    }

    /// The public key as `verify_keys` publishes it: unpadded base64.
    pub fn public_base64(&self) -> String {
        BASE64.encode(self.verifying_key().as_bytes())
    }

    /// The signature of some bytes. About 20 µs.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        self.key.sign(bytes).to_bytes()
    }

    /// The signature of some bytes in unpadded base64, as JSON carries it.
    pub fn sign_base64(&self, bytes: &[u8]) -> String {
        BASE64.encode(self.sign(bytes))
    }
}

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

fn decode_seed(base64: &str) -> Option<[u8; 32]> {
    BASE64.decode(base64).ok()?.try_into().ok()
}

impl fmt::Debug for ServerKey {
    /// Shows the key id only, never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerKey")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn cve_2026_24044_a_generated_key_is_private_and_stays_the_same() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("signing.key");
        let first = ServerKey::load_or_generate(&path).expect("generates");
        let mode = fs::metadata(&path).expect("exists").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let second = ServerKey::load_or_generate(&path).expect("loads");
        assert_eq!(first.key_id(), second.key_id());
        assert_eq!(first.public_base64(), second.public_base64());
        assert_eq!(first.sign(b"x"), second.sign(b"x"));
        assert!(!format!("{first:?}").contains(&BASE64.encode(first.key.as_bytes())));
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("signing.key");
        ServerKey::generate().store(&path).expect("stores");
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let refused = ServerKey::load(&path);
            assert!(matches!(refused, Err(KeyFileError::LooseMode { mode: m, .. }) if m == mode));
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
        assert!(ServerKey::load(&path).is_ok());
    }

    #[test]
    fn an_existing_key_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("signing.key");
        ServerKey::generate().store(&path).expect("stores");
        let before = fs::read(&path).expect("reads");
        assert!(ServerKey::generate().store(&path).is_err());
        assert_eq!(fs::read(&path).expect("reads"), before);
    }

    /// The seeds and the public keys of the two lists belong together.
    #[test]
    fn cve_2026_24044_keys_that_the_world_knows_are_listed() {
        for seed in KNOWN_SEEDS {
            let seed = decode_seed(seed).expect("a seed");
            let key = ServerKey::from_seed(seed, "1");
            assert!(is_published(key.verifying_key().as_bytes()));
        }
        for key in PUBLISHED_KEYS {
            let key = decode_seed(key).expect("a key");
            assert!(VerifyingKey::from_bytes(&key).is_ok() && is_published(&key));
        }
        let own = ServerKey::generate();
        assert!(!is_published(own.verifying_key().as_bytes()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let path = Path::new("x");
        for text in [
            "",
            "ed25519 a",
            "ed25519 a AAAA",
            "rsa a YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0",
            "ed25519 a:b YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0",
            "ed25519 a YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0 more",
        ] {
            assert!(
                matches!(
                    ServerKey::parse(text, path),
                    Err(KeyFileError::Malformed { .. })
                ),
                "{text}"
            );
        }
        let published = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1=";
        assert!(matches!(
            ServerKey::parse(published, path),
            Err(KeyFileError::KnownKey { .. })
        ));
        let good = "ed25519 a_1 AJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XAw\n";
        assert_eq!(
            ServerKey::parse(good, path).expect("parses").key_id(),
            "ed25519:a_1"
        );
    }
}
