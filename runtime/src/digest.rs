//! Content digests: the names under which every byte is checked.
//!
//! Only `sha256` is accepted, in the canonical form of the OCI image specification
//! (descriptor.md, "Digests"): `sha256:` and 64 lower-case hexadecimal digits. The form is checked
//! before a digest becomes part of any path or URL (SECURITY R14: an unchecked one is a traversal).

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A checked `sha256:…` digest.
///
/// ```
/// use runtime::Digest;
/// let digest = Digest::of(b"");
/// assert!(digest.hex().starts_with("e3b0c442"));
/// assert_eq!(Digest::parse(digest.as_str()), Ok(digest));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("digest {0:?}: expected sha256: and 64 lower-case hexadecimal digits")]
pub struct ParseError(String);

impl Digest {
    /// Parses the canonical form.
    pub fn parse(text: &str) -> Result<Digest, ParseError> {
        let hex = text.strip_prefix(PREFIX).ok_or_else(|| ParseError(text.to_owned()))?;
        if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Digest(text.to_owned()))
        } else {
            Err(ParseError(text.to_owned()))
        }
    }

    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The whole digest, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits: a safe file name.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The first 15 digits, for people.
    pub fn short(&self) -> &str {
        &self.hex()[..15]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Digest, ParseError> {
        Digest::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// Computes a digest over a stream.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Takes the next bytes of the stream.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let mut text = String::with_capacity(PREFIX.len() + 64);
        text.push_str(PREFIX);
        for byte in self.0.finalize() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Digest(text)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SECURITY R14: before any path or URL is made of it (CVE-2024-3727).
    #[test]
    fn only_the_canonical_form_is_a_digest() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").hex(), hex);
        for bad in [
            "",
            "sha256:",
            hex,
            &format!("sha512:{hex}"),
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{}", &hex[1..]),
            &format!("sha256:{hex}0"),
            &format!("sha256:../{}", &hex[3..]),
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad} was taken for a digest");
        }
    }
}
