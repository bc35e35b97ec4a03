//! The unit of writing: a header with a checksum, then the entries. A group is on the disk as a whole or it is not.
//!
//! Little endian: magic and version (4) · entries (4) · position of the first (8) · body bytes (4) · CRC-32 (4) · tag (8) ·
//! synced (8) · body. The checksum covers everything else, so a header that was not written whole is noticed too. Version 1
//! ends its header at the checksum; it is still read.

use crate::journal::entry::{Entry, Topics};
use crate::types::epoch::ChainId;
use crate::types::position::Position;
use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The last byte is the version; keep a sample of every one in testdata/compat.
const MAGIC: [u8; 4] = *b"pjg\x02";
const MAGIC_V1: [u8; 4] = *b"pjg\x01";
pub const HEADER_BYTES: usize = 40;
pub const HEADER_BYTES_V1: usize = 24;
/// A group is closed at 1 MiB; a single message may be larger, and nothing sane is larger than this.
pub const BODY_BYTES_MAX: usize = 1 << 30;

/// Which chain a group belongs to. A payload may hold any bytes, a copy of a journal too; but whoever sent it does not know
/// our chain's uuid, so nothing in a payload can pass for a group of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u64);

impl Tag {
    pub fn of(chain: &ChainId) -> Tag {
        let digest = Sha256::digest(chain.0.as_bytes());
        Tag(u64::from_le_bytes(std::array::from_fn(|i| digest[i])))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub entries: u32,
    pub first: Position,
    pub body_bytes: u32,
    crc: u32,
    /// Version 1 does not say.
    tag: Option<Tag>,
    /// Everything below had been synced when this group was written: damage there is no torn write.
    pub synced: Position,
}

impl Header {
    pub fn end(&self) -> Position {
        Position(self.first.0 + self.entries as u64)
    }

    pub fn header_bytes(&self) -> usize {
        if self.tag.is_some() { HEADER_BYTES } else { HEADER_BYTES_V1 }
    }

    pub fn bytes(&self) -> u64 {
        self.header_bytes() as u64 + self.body_bytes as u64
    }

    pub fn is_of(&self, tag: Tag) -> bool {
        self.tag.is_none_or(|own| own == tag)
    }

    /// The header at the beginning of `bytes`. `None`: none of a version we know. Says nothing about the body yet.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let magic = bytes.first_chunk::<4>()?;
        let is_v1 = *magic == MAGIC_V1;
        if !(is_v1 || *magic == MAGIC) || bytes.len() < if is_v1 { HEADER_BYTES_V1 } else { HEADER_BYTES } {
            return None;
        }
        let first = Position(u64_at(8));
        let header = Header {
            entries: u32_at(4),
            first,
            body_bytes: u32_at(16),
            crc: u32_at(20),
            tag: (!is_v1).then(|| Tag(u64_at(24))),
            // Version 1 knew no other mode than syncing every group.
            synced: if is_v1 { first } else { Position(u64_at(32)) },
        };
        // Whoever trusts `synced` without the checksum relies on the second: the group that claims most is not below it.
        let sane = header.entries > 0
            && header.synced <= first
            && header.body_bytes as usize <= BODY_BYTES_MAX
            && first.0.checked_add(header.entries as u64).is_some();
        sane.then_some(header)
    }

    /// Is this header, as it stands at the beginning of `head`, followed by its own whole body?
    pub fn fits(&self, head: &[u8], body: &[u8]) -> bool {
        body.len() == self.body_bytes as usize && checksum(&head[..self.header_bytes()], body) == self.crc
    }
}

/// Over the header without the checksum itself, and the body.
fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..20]);
    crc.update(&head[24..]);
    crc.update(body);
    crc.finalize()
}

/// A group as it is written, into `out` (cleared first).
pub fn encode<'a>(
    tag: Tag,
    synced: Position,
    first: Position,
    entries: impl ExactSizeIterator<Item = &'a Entry>,
    out: &mut Vec<u8>,
) {
    out.clear();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&first.0.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&tag.0.to_le_bytes());
    out.extend_from_slice(&synced.0.to_le_bytes());
    for entry in entries {
        entry.encode(out);
    }
    let body_bytes = u32::try_from(out.len() - HEADER_BYTES).expect("a group is far below 4 GiB");
    out[16..20].copy_from_slice(&body_bytes.to_le_bytes());
    let crc = checksum(&out[..HEADER_BYTES], &out[HEADER_BYTES..]);
    out[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// The entries of a body whose checksum fits. `None`: a body this build cannot read.
pub fn decode(header: &Header, body: Bytes, topics: &mut Topics) -> Option<Vec<Entry>> {
    // An entry has 21 bytes at least: a wrong count must not set memory aside for itself.
    let mut entries = Vec::with_capacity((header.entries as usize).min(body.len() / 21 + 1));
    let mut at = 0;
    for _ in 0..header.entries {
        entries.push(Entry::decode(&body, &mut at, topics)?);
    }
    (at == body.len()).then_some(entries)
}
