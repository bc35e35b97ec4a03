//! Messages of one partition on their way into one handover: their bytes are copied once, into one allocation.

use crate::types::limit::{HANDOVER_BYTES_MAX, HANDOVER_MESSAGES_MAX};
use crate::types::message::{Headers, Message as Ours};
use crate::types::position::Position;
use bytes::Bytes;
use rdkafka::Message as _;
use rdkafka::bindings;
use rdkafka::message::{BorrowedMessage, Timestamp};
use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;

/// The library's messages are views into its fetch buffers, which must be given back soon; so we copy.
#[derive(Default)]
pub struct Pending {
    arena: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    position: Position,
    key: Option<Range<usize>>,
    payload: Option<Range<usize>>,
    headers: Option<Arc<Headers>>,
    timestamp_us: Option<i64>,
}

impl Pending {
    /// No room for `message` in this handover. One that is larger than a handover goes alone.
    pub fn is_full_for(&self, message: &BorrowedMessage<'_>) -> bool {
        let bytes = message.key_len() + message.payload_len();
        self.items.len() == HANDOVER_MESSAGES_MAX
            || (!self.items.is_empty() && self.arena.len() + bytes > HANDOVER_BYTES_MAX)
    }

    /// Returns the bytes taken.
    pub fn push(&mut self, position: Position, message: &BorrowedMessage<'_>) -> usize {
        let before = self.arena.len();
        let key = message.key().map(|key| self.copy(key));
        let payload = message.payload().map(|payload| self.copy(payload));
        let timestamp_us = match message.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms.checked_mul(1000),
        };
        self.items.push(Item { position, key, payload, headers: headers(message), timestamp_us });
        self.arena.len() - before
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.arena.len();
        self.arena.extend_from_slice(bytes);
        from..self.arena.len()
    }

    pub fn take(&mut self, topic: &Arc<str>, received_at_us: i64) -> Vec<Ours> {
        let arena = Bytes::from(std::mem::take(&mut self.arena));
        let ours = |item: Item| Ours {
            position: item.position,
            topic: Some(topic.clone()),
            key: item.key.map(|range| arena.slice(range)),
            payload: item.payload.map(|range| arena.slice(range)),
            headers: item.headers,
            timestamp_us: item.timestamp_us,
            received_at_us,
            replayed: None,
        };
        self.items.drain(..).map(ours).collect()
    }
}

/// Read through the C interface: rdkafka's own accessor panics on a key that is not UTF-8, and such a message would stop
/// the pipeline for good. Here the key's bad bytes are replaced.
fn headers(message: &BorrowedMessage<'_>) -> Option<Arc<Headers>> {
    let mut list = std::ptr::null_mut();
    // SAFETY: the message is alive for the whole function, and the library keeps the list with the message.
    let found = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &mut list) };
    if found != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || list.is_null() {
        return None;
    }
    // SAFETY: `list` was just given to us and is alive, see above.
    let count = unsafe { bindings::rd_kafka_header_cnt(list) };
    let mut headers = Headers::with_capacity(count);
    for index in 0..count {
        let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the three places are ours; on success `name` is a C string and `value` is null or has `size` bytes.
        let (name, value) = unsafe {
            let got = bindings::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut size);
            if got != bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                break;
            }
            let value = (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name).to_string_lossy(), value)
        };
        headers.push((Arc::from(&*name), value.map(Bytes::copy_from_slice)));
    }
    Some(Arc::new(headers))
}
