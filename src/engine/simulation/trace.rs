//! What happened in a run, line by line, and a hash of all of it: two runs of one seed must agree on it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Lines kept for the report of a failure.
const LINES_KEPT: usize = 40;

#[derive(Default)]
pub struct Trace(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    count: u64,
    hash: u64,
    last: VecDeque<String>,
}

impl Trace {
    /// The line as it was kept.
    pub fn say(&self, what: fmt::Arguments<'_>) -> String {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.count += 1;
        let line = format!("{:>5} {what}", lines.count);
        // FNV-1a, one word at a time.
        for chunk in line.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            lines.hash = (lines.hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
        if std::env::var_os("PIPE_SIM_TRACE").is_some() {
            eprintln!("{line}");
        }
        lines.last.push_back(line.clone());
        if lines.last.len() > LINES_KEPT {
            lines.last.pop_front();
        }
        line
    }

    pub fn hash(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hash
    }

    pub fn last(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.iter().cloned().collect()
    }
}
