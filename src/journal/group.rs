//! The unit of writing: a header with a checksum, then the entries. A group is on the disk as a whole or it is not.
//!
//! Little endian: magic and version (4) · entries (4) · position of the first (8) · body bytes (4) · CRC-32 (4) · body.
//! The checksum covers everything else, so a header that was not written whole is noticed too.

use crate::journal::entry::Entry;
use crate::types::position::Position;
use bytes::Bytes;

/// The last byte is the version; keep a sample of every one in testdata/compat.
const MAGIC: [u8; 4] = *b"pjg\x01";
pub const HEADER_BYTES: usize = 24;
/// A group is closed at 1 MiB; a single message may be larger, and nothing sane is larger than this.
pub const BODY_BYTES_MAX: usize = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub entries: u32,
    pub first: Position,
    pub body_bytes: u32,
    crc: u32,
}

impl Header {
    pub fn end(&self) -> Position {
        Position(self.first.0 + self.entries as u64)
    }

    pub fn bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.body_bytes as u64
    }

    /// `None`: no header of this version. Says nothing about the body yet.
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let header = Header {
            entries: u32_at(4),
            first: Position(u64::from_le_bytes(std::array::from_fn(|i| bytes[8 + i]))),
            body_bytes: u32_at(16),
            crc: u32_at(20),
        };
        let sane = bytes[..4] == MAGIC && header.entries > 0 && header.body_bytes as usize <= BODY_BYTES_MAX;
        sane.then_some(header)
    }

    pub fn fits(&self, header: &[u8; HEADER_BYTES], body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && checksum(&header[..20], body) == self.crc
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

/// A group as it is written, into `out` (cleared first).
pub fn encode<'a>(first: Position, entries: impl ExactSizeIterator<Item = &'a Entry>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&first.0.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    for entry in entries {
        entry.encode(out);
    }
    let body_bytes = u32::try_from(out.len() - HEADER_BYTES).expect("a group is far below 4 GiB");
    out[16..20].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = checksum(&out[..20], &out[HEADER_BYTES..]);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// The entries of a body whose checksum fits. `None`: a body this build cannot read.
pub fn decode(header: &Header, mut body: Bytes) -> Option<Vec<Entry>> {
    let mut entries = Vec::with_capacity(header.entries as usize);
    for _ in 0..header.entries {
        entries.push(Entry::decode(&mut body)?);
    }
    body.is_empty().then_some(entries)
}
