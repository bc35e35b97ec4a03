//! Messages of a recorded JSONL file, one per line, with rewrites; without rewrites their bytes are untouched.

use crate::simulate::rewrite::{Rewrite, instant_us};
use crate::simulate::sent::{Class, Kind, Sent, Stream};
use crate::types::error::{Error, Result};
use bytes::Bytes;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub struct ReplayOptions {
    pub file: PathBuf,
    /// Recorded time runs this many times as fast.
    pub speed: f64,
    pub rewrites: Vec<Rewrite>,
    /// `{key}` stands for the message's key.
    pub topic: String,
    /// Field with the key.
    pub key_field: String,
    /// Field with the instant that paces the replay; a line without it goes out with the one before it.
    pub time_field: String,
    /// What `now` is for the first message: microseconds UTC.
    pub start_us: i64,
}

pub struct Replay {
    options: ReplayOptions,
    lines: BufReader<File>,
    line: u64,
    first_us: Option<i64>,
    last_us: i64,
}

impl Replay {
    pub fn open(options: ReplayOptions) -> Result<Self> {
        let file = File::open(&options.file).map_err(|e| failed(&options.file, e))?;
        Ok(Replay { lines: BufReader::new(file), line: 0, first_us: None, last_us: 0, options })
    }

    /// The next line as a message; `None` at the end. Empty lines are passed over.
    pub fn next_message(&mut self) -> Result<Option<Sent>> {
        loop {
            let mut line = Vec::new();
            if self.lines.read_until(b'\n', &mut line).map_err(|e| failed(&self.options.file, e))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            while line.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                line.pop();
            }
            if !line.is_empty() {
                return Ok(Some(self.message(line)));
            }
        }
    }

    fn message(&mut self, line: Vec<u8>) -> Sent {
        let parsed: Option<Value> = serde_json::from_slice(&line).ok();
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let recorded_us = parsed.as_ref().and_then(|v| text(v, &self.options.time_field)).and_then(|t| instant_us(&t));
        let first_us = *self.first_us.get_or_insert(recorded_us.unwrap_or(0));
        let event_us = recorded_us.unwrap_or(self.last_us.max(first_us));
        // A recording may be out of order; the clock that paces it is not.
        self.last_us = self.last_us.max(event_us);
        let mut key = String::new();
        let mut rows = 0;
        let class = if parsed.is_some() { Class::Good } else { Class::Malformed };
        let payload = match parsed {
            Some(mut value) if !self.options.rewrites.is_empty() => {
                let replayed_us = self.options.start_us + ((event_us - first_us) as f64 / self.options.speed) as i64;
                for rewrite in &self.options.rewrites {
                    rewrite.apply(&mut value, replayed_us - event_us);
                }
                (key, rows) = self.key_and_rows(&value);
                value.to_string().into_bytes()
            }
            Some(value) => {
                (key, rows) = self.key_and_rows(&value);
                line
            }
            None => line,
        };
        Sent {
            kind: Kind::Recorded,
            class,
            stream: Stream::Kinematic,
            topic: self.options.topic.replace("{key}", &key).into(),
            key: key.into(),
            payload: Bytes::from(payload),
            event_time_us: event_us,
            due_us: self.last_us,
            message_id: format!("line-{}", self.line).into(),
            rows,
        }
    }

    fn key_and_rows(&self, value: &Value) -> (String, u32) {
        let key = value.get(&self.options.key_field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let rows = value.get("measurements").and_then(Value::as_array).map_or(0, |m| m.len() as u32);
        (key, rows)
    }
}

fn failed(file: &Path, e: std::io::Error) -> Error {
    Error::Failed(format!("cannot read \"{}\": {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_recording_is_replayed_with_rewrites_and_without() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(
            b"{\"vehicle_id\":\"a\",\"sent_at\":\"2026-01-01T00:00:00Z\",\"x\":1.50}\n\nbroken\r\n\
              {\"vehicle_id\":\"b\",\"sent_at\":\"2026-01-01T00:00:20Z\",\"measurements\":[{},{}]}",
        )
        .expect("written");
        let options = ReplayOptions {
            file: file.path().to_owned(),
            speed: 10.0,
            rewrites: vec![],
            topic: "t/{key}".into(),
            key_field: "vehicle_id".into(),
            time_field: "sent_at".into(),
            start_us: 0,
        };
        let read = |options: ReplayOptions| {
            let mut replay = Replay::open(options).expect("opened");
            std::iter::from_fn(move || replay.next_message().expect("read")).collect::<Vec<Sent>>()
        };
        let plain = read(options.clone());
        assert_eq!(plain.len(), 3);
        assert_eq!(&plain[0].payload[..], b"{\"vehicle_id\":\"a\",\"sent_at\":\"2026-01-01T00:00:00Z\",\"x\":1.50}");
        assert_eq!(
            (&plain[1].payload[..], plain[1].class, plain[1].due_us),
            (&b"broken"[..], Class::Malformed, plain[0].due_us)
        );
        assert_eq!((plain[2].topic.as_ref(), plain[2].rows), ("t/b", 2));
        assert_eq!(plain[2].due_us - plain[0].due_us, 20_000_000);
        let rewrites = ["sent_at=now", "vehicle_id=prefix:X"].map(|r| Rewrite::parse(r).expect("a rewrite")).to_vec();
        let rewritten = read(ReplayOptions { rewrites, ..options });
        assert_eq!(rewritten[2].key.as_ref(), "Xb");
        let text = String::from_utf8_lossy(&rewritten[2].payload).into_owned();
        assert!(text.contains("\"sent_at\":\"1970-01-01T00:00:02.000000Z\""), "{text}");
        assert_eq!(&rewritten[1].payload[..], b"broken");
    }

    #[test]
    fn a_missing_recording_is_named() {
        let options = ReplayOptions {
            file: "/nowhere/recorded.jsonl".into(),
            speed: 1.0,
            rewrites: vec![],
            topic: String::new(),
            key_field: String::new(),
            time_field: String::new(),
            start_us: 0,
        };
        let error = Replay::open(options).err().expect("no such file").to_string();
        assert!(error.contains("/nowhere/recorded.jsonl"), "{error}");
    }
}
