//! Bytes -> blocks of whole lines -> messages that share the block: no copy and no allocation per line.
//!
//! A block is what one read brought up to its last newline; what follows is carried into the next. Positions count
//! decompressed bytes. A last line without newline counts only if `take_last_line`; else it waits for its rest.

use crate::types::error::{Error, Result};
use crate::types::limit::{HANDOVER_BYTES_MAX, HANDOVER_MESSAGES_MAX};
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position, Span};
use bytes::Bytes;
use std::io::{BufRead, ErrorKind, Read};
use std::sync::Arc;

/// One read. A handover is never larger, so a block gives one handover of long lines or several of short ones.
const BLOCK_BYTES: usize = HANDOVER_BYTES_MAX;

/// A line is handed over whole up to here, and set aside as `too_large` by the worker beyond the message limit. Above
/// this the file is not one of lines, and holding more would only serve to reject it: refused.
pub const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

pub struct Lines {
    input: Box<dyn Read + Send>,
    /// The beginning of a line whose end has not been read.
    carry: Vec<u8>,
    /// Of the first carried byte.
    position: u64,
    ended: bool,
    take_last_line: bool,
}

/// Whole lines in one allocation.
#[derive(Debug)]
pub struct Block {
    bytes: Bytes,
    from: u64,
}

/// What the messages of a block have in common.
pub struct Common {
    pub partition: Arc<PartitionId>,
    pub identity: Arc<serde_json::Value>,
    pub received_at_us: i64,
}

impl Lines {
    /// `input` is decompressed and stands at `position`.
    pub fn new(input: Box<dyn Read + Send>, position: u64, take_last_line: bool) -> Self {
        Lines { input, carry: Vec::new(), position, ended: false, take_last_line }
    }

    /// Where the next line starts.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next block; None at the end (of what is there now).
    pub fn next(&mut self) -> Result<Option<Block>> {
        while !self.ended {
            let searched = self.carry.len();
            self.read()?;
            if let Some(newline) = self.carry[searched..].iter().rposition(|b| *b == b'\n') {
                return Ok(Some(self.split_off(searched + newline + 1)));
            }
            if self.carry.len() > LINE_BYTES_MAX {
                return Err(Error::refused(
                    format!("the line at byte {} is longer than {LINE_BYTES_MAX} bytes", self.position),
                    "Is this a file of lines? Each message must be one line.",
                ));
            }
        }
        if self.take_last_line && !self.carry.is_empty() {
            return Ok(Some(self.split_off(self.carry.len())));
        }
        Ok(None)
    }

    fn read(&mut self) -> Result<()> {
        // read_to_end fills spare capacity without zeroing it first, and stops at the limit.
        self.carry.reserve(BLOCK_BYTES);
        match self.input.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut self.carry) {
            Ok(read) => self.ended = read < BLOCK_BYTES,
            // A compressed file that is still being written, or was cut. What came before is good.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof && !self.take_last_line => self.ended = true,
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                return Err(Error::refused(
                    format!("the compressed data ends in the middle, after byte {} of its content", self.position),
                    "Was it written completely? Put the whole of it under a new name. A file on disk that is still being \
                     written is waited for without --once.",
                ));
            }
            Err(e) => {
                // A place that knows whose move it is says so inside.
                let e = e.downcast::<Error>().unwrap_or_else(|e| Error::Failed(e.to_string()));
                return Err(e.context(format_args!("cannot read after byte {}", self.position)));
            }
        }
        Ok(())
    }

    fn split_off(&mut self, length: usize) -> Block {
        let rest = self.carry[length..].to_vec();
        let mut lines = std::mem::replace(&mut self.carry, rest);
        lines.truncate(length);
        let from = self.position;
        self.position += length as u64;
        Block { bytes: Bytes::from(lines), from }
    }
}

impl Block {
    /// Cut into handovers with contiguous spans. Empty lines are gaps in the span.
    pub fn messages(&self, common: &Common) -> Vec<Messages> {
        let mut out = Vec::new();
        let mut items = Vec::new();
        let (mut at, mut from, mut payload_bytes) = (0, 0, 0);
        while at < self.bytes.len() {
            let mut rest = &self.bytes[at..];
            let length = rest.skip_until(b'\n').expect("a slice can always be read");
            let line = trim_newline(&self.bytes[at..at + length]);
            let full = items.len() == HANDOVER_MESSAGES_MAX
                || (!items.is_empty() && payload_bytes + line.len() > HANDOVER_BYTES_MAX);
            if full {
                out.push(self.handover(common, from, at, std::mem::take(&mut items)));
                (from, payload_bytes) = (at, 0);
            }
            if !line.is_empty() {
                payload_bytes += line.len();
                items.push(Message {
                    position: Position(self.from + at as u64),
                    topic: None,
                    key: None,
                    payload: Some(self.bytes.slice_ref(line)),
                    headers: None,
                    timestamp_us: None,
                    received_at_us: common.received_at_us,
                    replayed: None,
                });
            }
            at += length;
        }
        out.push(self.handover(common, from, at, items));
        out
    }

    fn handover(&self, common: &Common, from: usize, to: usize, items: Vec<Message>) -> Messages {
        Messages {
            partition: common.partition.clone(),
            partition_label: common.partition.name.clone(),
            span: Span::new(Position(self.from + from as u64), Position(self.from + to as u64)),
            items,
            identity: Some(common.identity.clone()),
        }
    }
}

fn trim_newline(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its text in pieces of at most `piece` bytes, as a pipe or a decompressor does.
    struct Dribble(std::io::Cursor<Vec<u8>>, usize);

    impl Read for Dribble {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let piece = into.len().min(self.1);
            self.0.read(&mut into[..piece])
        }
    }

    fn handovers(text: &[u8], take_last_line: bool) -> Vec<Messages> {
        let input = Box::new(Dribble(std::io::Cursor::new(text.to_vec()), 7));
        let mut lines = Lines::new(input, 100, take_last_line);
        let common = Common {
            partition: Arc::new(PartitionId::new("s", "f")),
            identity: Arc::new(serde_json::json!({})),
            received_at_us: 1,
        };
        let mut out = Vec::new();
        while let Some(block) = lines.next().expect("readable") {
            out.extend(block.messages(&common));
        }
        out
    }

    /// "position=payload" per message, then the spans.
    fn check(text: &str, take_last_line: bool, expected: &str) {
        let mut said = Vec::new();
        for messages in handovers(text.as_bytes(), take_last_line) {
            for m in &messages.items {
                let payload = m.payload.as_ref().expect("lines have payloads");
                said.push(format!("{}={}", m.position, String::from_utf8_lossy(payload)));
            }
            said.push(messages.span.to_string());
        }
        assert_eq!(said.join(" "), expected, "{text:?}");
    }

    #[test]
    fn a_last_line_without_newline_counts_only_when_asked() {
        check("a\nb", false, "100=a [100, 102)");
        check("a\nb", true, "100=a [100, 102) 102=b [102, 103)");
        check("a", false, "");
        check("", true, "");
    }

    #[test]
    fn empty_lines_are_gaps_and_carriage_returns_go() {
        check("a\r\n\n\r\nb\n", true, "100=a 106=b [100, 108)");
        check("\n\n", true, "[100, 102)");
    }

    #[test]
    fn spans_are_contiguous_whatever_the_size_of_blocks_and_lines() {
        let mut text = Vec::new();
        for i in 0..60_000_usize {
            text.extend(std::iter::repeat_n(b'x', i % 97));
            text.push(b'\n');
        }
        text.extend(std::iter::repeat_n(b'y', 3 * BLOCK_BYTES));
        text.push(b'\n');
        let all = handovers(&text, false);
        let mut at = 100;
        for messages in &all {
            assert_eq!(messages.span.from.0, at);
            at = messages.span.to.0;
            assert!(messages.items.len() <= HANDOVER_MESSAGES_MAX);
            assert!(messages.items.len() == 1 || messages.bytes() <= HANDOVER_BYTES_MAX + 128 * messages.items.len());
        }
        assert_eq!(at, 100 + text.len() as u64);
        let lines: usize = all.iter().map(|m| m.items.len()).sum();
        assert_eq!(lines, 60_000 - 60_000_usize.div_ceil(97) + 1);
        let longest = all.iter().flat_map(|m| &m.items).map(|m| m.payload.as_ref().map_or(0, |p| p.len())).max();
        assert_eq!(longest, Some(3 * BLOCK_BYTES), "a long line is handed over whole");
    }

    #[test]
    fn a_line_beyond_all_reason_is_refused() {
        let mut lines = Lines::new(Box::new(std::io::repeat(b'x')), 0, false);
        let said = lines.next().expect_err("no line is that long").to_string();
        assert!(said.starts_with("the line at byte 0 is longer than 67108864 bytes"), "{said}");
    }
}
