//! Is this still the file that the record speaks of? A file may grow, an object may not change; anything else is refused.
//!
//! Pure: `local.rs` and `objects.rs` read size, time, head and etag, and ask here. A file that is cut, rewritten or replaced
//! under its old name would make a position mean other bytes: rows would be lost or doubled without a trace.

use crate::types::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// How much of the beginning is remembered. Enough to tell logs apart by their first time stamps, cheap to read again.
pub const HEAD_BYTES_MAX: usize = 4096;

/// What the record keeps of a file or an object, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Identity {
    File(FileIdentity),
    Object(ObjectIdentity),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// Bytes on disk (compressed, if the file is) when it was opened.
    pub size: u64,
    /// For people: a touched file is no other file.
    pub mtime_us: i64,
    /// SHA-256 of the first `head_len` bytes on disk, hexadecimal.
    pub head_hash: String,
    pub head_len: u64,
}

/// Objects are replaced as a whole, so one that changed is another one, however it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectIdentity {
    pub size: u64,
    /// Of stores that give one.
    pub etag: Option<String>,
    pub modified_us: i64,
}

impl Identity {
    /// For what is gone: whether bytes that were there had not been read.
    pub fn check_gone(&self, name: &str, position: u64, compressed: bool) -> Result<()> {
        let (what, size) = match self {
            Identity::File(file) => ("file", file.size),
            Identity::Object(object) => ("object", object.size),
        };
        if compressed || position >= size {
            return Ok(());
        }
        Err(Error::refused(
            format!("{what} \"{name}\" is gone, and its bytes [{position}, {size}) were never read"),
            format!("Put the {what} back; it may be removed once it has been read to its end."),
        ))
    }
}

impl ObjectIdentity {
    /// Compares what is known with what is there now.
    pub fn check(&self, name: &str, now: &ObjectIdentity) -> Result<()> {
        let is_same = match (&self.etag, &now.etag) {
            (Some(known), Some(now)) => known == now,
            (_, _) => self.modified_us == now.modified_us,
        };
        if is_same && self.size == now.size {
            return Ok(());
        }
        Err(Error::refused(
            format!("object \"{name}\" is not the one that was read: {self} then, {now} now"),
            "An object may not change once it was begun. Give the new content a new name. Restore the old one (its version, \
             or a copy with the same etag) if it was not read to its end; else it may be removed.",
        ))
    }
}

impl fmt::Display for ObjectIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.size)?;
        self.etag.as_ref().map_or(Ok(()), |etag| write!(f, ", etag {etag}"))
    }
}

impl FileIdentity {
    /// `head` is the beginning of the file, up to `HEAD_BYTES_MAX`.
    pub fn of(size: u64, mtime_us: i64, head: &[u8]) -> Self {
        FileIdentity { size, mtime_us, head_hash: hash(head), head_len: head.len() as u64 }
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
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `then`/`now`: content at the record and today.
    fn check(then: &str, position: u64, now: &str) -> String {
        let known = FileIdentity::of(then.len() as u64, 0, then.as_bytes());
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
        let known = FileIdentity::of(10_000, 0, long.as_bytes());
        known.check("a", 9_000, false, 20_000, long.as_bytes()).expect("the same head");
    }

    #[test]
    fn a_file_that_is_gone_must_have_been_read() {
        let known = Identity::File(FileIdentity::of(6, 0, b"abcdef"));
        assert!(known.check_gone("a", 6, false).is_ok());
        let said = known.check_gone("a", 2, false).expect_err("bytes are missing").to_string();
        assert!(said.starts_with("file \"a\" is gone, and its bytes [2, 6) were never read"), "{said}");
    }

    #[test]
    fn an_object_that_changed_is_another_one() {
        let object = |size, etag: Option<&str>, modified_us| ObjectIdentity {
            size,
            etag: etag.map(str::to_string),
            modified_us,
        };
        let check = |then: ObjectIdentity, now: ObjectIdentity| match then.check("s3://b/a", &now) {
            Ok(()) => "ok".into(),
            Err(e) => e.to_string().lines().next().unwrap_or_default().to_string(),
        };
        let other = "object \"s3://b/a\" is not the one that was read: ";
        let said = check(object(6, Some("x"), 1), object(6, Some("y"), 1));
        assert_eq!(said, format!("{other}6 bytes, etag x then, 6 bytes, etag y now"));
        let said = check(object(6, Some("x"), 1), object(9, Some("y"), 2));
        assert_eq!(said, format!("{other}6 bytes, etag x then, 9 bytes, etag y now"), "growth too");
        assert_eq!(check(object(6, None, 1), object(6, None, 2)), format!("{other}6 bytes then, 6 bytes now"));
        assert_eq!(check(object(6, Some("x"), 1), object(6, Some("x"), 2)), "ok", "touched");
        assert_eq!(check(object(6, None, 1), object(6, None, 1)), "ok");
    }

    #[test]
    fn what_the_record_kept_is_read_back() {
        let file = Identity::File(FileIdentity::of(6, 7, b"abcdef"));
        let object = Identity::Object(ObjectIdentity { size: 6, etag: None, modified_us: 7 });
        for identity in [file, object] {
            let json = serde_json::to_value(&identity).expect("plain data");
            assert_eq!(Identity::deserialize(&json).expect("the same"), identity);
        }
        assert!(Identity::deserialize(&serde_json::json!({ "size": 6 })).is_err());
    }
}
