//! One message as the journal keeps it: what cannot be asked for again from the broker.

use crate::types::message::Headers;
use bytes::{Buf, Bytes};
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

    /// `None`: not an entry. Payloads share the memory of `body`.
    pub(super) fn decode(body: &mut Bytes) -> Option<Entry> {
        let received_at_us = body.try_get_i64_le().ok()?;
        let flags = body.try_get_u8().ok()?;
        let topic = text(take(body)??)?;
        let count = body.try_get_u32_le().ok()? as usize;
        let mut headers = Headers::new();
        for _ in 0..count {
            headers.push((text(take(body)??)?, take(body)?));
        }
        let headers = (!headers.is_empty()).then(|| Arc::new(headers));
        Some(Entry { received_at_us, flags, topic, headers, payload: take(body)?? })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).ok().filter(|n| *n != NO_VALUE).expect("a message is below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Outer `None`: too short. Inner `None`: no value.
fn take(body: &mut Bytes) -> Option<Option<Bytes>> {
    let length = body.try_get_u32_le().ok()?;
    if length == NO_VALUE {
        return Some(None);
    }
    if body.len() < length as usize {
        return None;
    }
    Some(Some(body.split_to(length as usize)))
}

fn text(bytes: Bytes) -> Option<Arc<str>> {
    std::str::from_utf8(&bytes).ok().map(Arc::from)
}
