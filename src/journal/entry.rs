//! One message as the journal keeps it: what cannot be asked for again from the broker.

use crate::types::message::{Headers, Message};
use crate::types::position::Position;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Fixed here, at first durable receipt, microseconds UTC.
    pub received_at_us: i64,
    pub topic: Arc<str>,
    /// `QOS_MASK`, `RETAINED`, `REDELIVERED`.
    pub flags: u8,
    pub headers: Option<Arc<Headers>>,
    pub payload: Bytes,
}

pub const QOS_MASK: u8 = 0b11;
pub const RETAINED: u8 = 0b100;
/// The broker says it may have sent this message before.
pub const REDELIVERED: u8 = 0b1000;

/// In place of a length: the header has no value.
const NO_VALUE: u32 = u32::MAX;

impl Entry {
    /// In memory, roughly; for bounds.
    pub fn bytes(&self) -> usize {
        96 + self.topic.len() + self.payload.len() + self.headers.as_ref().map_or(0, |h| h.len() * 64)
    }

    /// As slots take it. The journal's position is the message's.
    pub fn into_message(self, position: Position) -> Message {
        Message {
            position,
            topic: Some(self.topic),
            key: None,
            payload: Some(self.payload),
            headers: self.headers,
            timestamp_us: None,
            received_at_us: self.received_at_us,
            replayed: None,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.received_at_us.to_le_bytes());
        out.push(self.flags);
        put(out, self.topic.as_bytes());
        let headers: &[_] = self.headers.as_ref().map_or(&[], |h| h.as_slice());
        out.extend_from_slice(&(headers.len() as u32).to_le_bytes());
        for (name, value) in headers {
            put(out, name.as_bytes());
            match value {
                Some(value) => put(out, value),
                None => out.extend_from_slice(&NO_VALUE.to_le_bytes()),
            }
        }
        put(out, &self.payload);
    }

    /// The entry at `at`, which moves behind it. `None`: not an entry. Payloads share the memory of `body`.
    // Always inlined, so that the entry is made where it stays: moved there, it waits for its own bytes to be stored.
    #[inline(always)]
    pub(super) fn decode(body: &Bytes, at: &mut usize, topics: &mut Topics) -> Option<Entry> {
        let bytes: &[u8] = body;
        let received_at_us = i64::from_le_bytes(array(bytes, at)?);
        let [flags] = array(bytes, at)?;
        let topic = topics.named(&bytes[take(bytes, at)??])?;
        let mut headers = None;
        let count = u32::from_le_bytes(array(bytes, at)?);
        if count > 0 {
            let mut read = Headers::new();
            for _ in 0..count {
                let name = text(take(bytes, at)??, bytes)?;
                read.push((name, take(bytes, at)?.map(|range| body.slice(range))));
            }
            headers = Some(Arc::new(read));
        }
        let payload = body.slice(take(bytes, at)??);
        Some(Entry { received_at_us, flags, topic, headers, payload })
    }
}

/// Topics seen lately, so that one which comes again is neither checked nor copied again. Direct mapped: a fleet with more
/// topics than places costs an allocation per message, as without.
pub(super) struct Topics(Box<[Option<Arc<str>>; 1 << TOPICS_LOG2]>);

const TOPICS_LOG2: u32 = 8;

impl Default for Topics {
    fn default() -> Self {
        Topics(Box::new(std::array::from_fn(|_| None)))
    }
}

impl Topics {
    /// `None`: not UTF-8.
    #[inline]
    fn named(&mut self, bytes: &[u8]) -> Option<Arc<str>> {
        let place = &mut self.0[place_of(bytes)];
        if let Some(known) = place
            && known.as_bytes() == bytes
        {
            return Some(known.clone());
        }
        let topic: Arc<str> = std::str::from_utf8(bytes).ok()?.into();
        *place = Some(topic.clone());
        Some(topic)
    }
}

/// What differs between the topics of a fleet stands anywhere in them. Eight bytes at a time: this is done for every message,
/// and each step waits for the multiplication before it.
fn place_of(topic: &[u8]) -> usize {
    // Odd, with bits everywhere: the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    let (words, rest) = topic.as_chunks::<8>();
    let hash = words.iter().fold(topic.len() as u64, |hash, word| mixed(hash, u64::from_le_bytes(*word)));
    let rest = match topic.last_chunk::<8>() {
        Some(last) => u64::from_le_bytes(*last),
        None => rest.iter().fold(0, |word, byte| word << 8 | *byte as u64),
    };
    (mixed(hash, rest) >> (u64::BITS - TOPICS_LOG2)) as usize
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).ok().filter(|n| *n != NO_VALUE).expect("a message is below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

fn array<const N: usize>(body: &[u8], at: &mut usize) -> Option<[u8; N]> {
    let found = *body.get(*at..)?.first_chunk::<N>()?;
    *at += N;
    Some(found)
}

/// Where the next length-prefixed bytes stand. Outer `None`: too short. Inner `None`: no value.
fn take(body: &[u8], at: &mut usize) -> Option<Option<Range<usize>>> {
    let length = u32::from_le_bytes(array(body, at)?);
    if length == NO_VALUE {
        return Some(None);
    }
    let range = *at..at.checked_add(length as usize).filter(|end| *end <= body.len())?;
    *at = range.end;
    Some(Some(range))
}

fn text(range: Range<usize>, body: &[u8]) -> Option<Arc<str>> {
    std::str::from_utf8(&body[range]).ok().map(Arc::from)
}
