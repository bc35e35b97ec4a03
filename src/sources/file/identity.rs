//! Is this still the file that the record speaks of? Growth is fine, anything else is refused.
//!
//! Pure: `mod.rs` reads the size, the time and the head, and asks here. A file that is cut, rewritten or replaced under
//! its old name would make a position mean other bytes: rows would be lost or doubled without a trace.

use crate::types::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How much of the beginning is remembered. Enough to tell logs apart by their first time stamps, cheap to read again.
pub const HEAD_BYTES_MAX: usize = 4096;

/// What the record keeps of a file, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Bytes on disk (compressed, if the file is) when it was opened.
    pub size: u64,
    /// For people: a touched file is no other file.
    pub mtime_us: i64,
    /// SHA-256 of the first `head_len` bytes on disk, hexadecimal.
    pub head_hash: String,
    pub head_len: u64,
}

impl Identity {
    /// `head` is the beginning of the file, up to `HEAD_BYTES_MAX`.
    pub fn of(size: u64, mtime_us: i64, head: &[u8]) -> Self {
        Identity { size, mtime_us, head_hash: hash(head), head_len: head.len() as u64 }
    }

    /// Compares what the record knows with what is there now. `name` is for the error.
    pub fn check(&self, name: &str, position: u64, compressed: bool, size_now: u64, head_now: &[u8]) -> Result<()> {
        let hint = "Put the file back as it was, or give the new content a new name: a file may only grow.";
        if size_now < self.size {
            let what = format!("file \"{name}\" was {} bytes and is now {size_now}", self.size);
            return Err(Error::refused(what, hint));
        }
        // A file that grew while it was read has a position beyond the size at its opening.
        if !compressed && size_now < position {
            let what = format!("file \"{name}\" was read up to byte {position} and now has {size_now} bytes");
            return Err(Error::refused(what, hint));
        }
        let same_part = head_now.get(..self.head_len as usize).unwrap_or(head_now);
        if hash(same_part) != self.head_hash {
            let what =
                format!("file \"{name}\" has another beginning than when it was read (first {} bytes)", self.head_len);
            return Err(Error::refused(what, hint));
        }
        Ok(())
    }

    /// For a file that is gone: whether bytes that were there had not been read.
    pub fn check_gone(&self, name: &str, position: u64, compressed: bool) -> Result<()> {
        if compressed || position >= self.size {
            return Ok(());
        }
        Err(Error::refused(
            format!("file \"{name}\" is gone, and its bytes [{position}, {}) were never read", self.size),
            "Put the file back; it may be removed once it has been read to its end.",
        ))
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `then`/`now`: content at the record and today.
    fn check(then: &str, position: u64, now: &str) -> String {
        let known = Identity::of(then.len() as u64, 0, then.as_bytes());
        match known.check("a.jsonl", position, false, now.len() as u64, now.as_bytes()) {
            Ok(()) => "ok".into(),
            Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
        }
    }

    #[test]
    fn a_file_may_only_grow() {
        assert_eq!(check("abcdef", 3, "abc"), "file \"a.jsonl\" was 6 bytes and is now 3");
        assert_eq!(
            check("abcdef", 6, "Xbcdef"),
            "file \"a.jsonl\" has another beginning than when it was read (first 6 bytes)"
        );
        assert_eq!(check("abcdef", 9, "abcdefg"), "file \"a.jsonl\" was read up to byte 9 and now has 7 bytes");
        assert_eq!(check("abcdef", 6, "abcdef"), "ok");
        assert_eq!(check("abcdef", 6, "abcdefghi"), "ok");
        assert_eq!(check("", 0, "abc"), "ok");
    }

    #[test]
    fn only_the_head_is_compared_when_the_file_outgrew_it() {
        let long = "x".repeat(HEAD_BYTES_MAX);
        let known = Identity::of(10_000, 0, long.as_bytes());
        known.check("a", 9_000, false, 20_000, long.as_bytes()).expect("the same head");
    }

    #[test]
    fn a_file_that_is_gone_must_have_been_read() {
        let known = Identity::of(6, 0, b"abcdef");
        assert!(known.check_gone("a", 6, false).is_ok());
        let said = known.check_gone("a", 2, false).expect_err("bytes are missing").to_string();
        assert!(said.starts_with("file \"a\" is gone, and its bytes [2, 6) were never read"), "{said}");
    }
}
