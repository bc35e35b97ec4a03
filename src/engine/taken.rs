//! What a process that was fenced had taken and not recorded: said per partition, because nobody else can say it.
//!
//! `fenced` adds what lies in its journals.

use crate::engine::published::{Board, PartitionProgress};
use crate::sources::Applied;
use crate::types::error::Error;
use crate::types::position::{PartitionId, Position, Span};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::watch;

/// Partitions named in the error; the log names all.
const SHOWN_MAX: usize = 8;

/// Where one learns how far this process has read, and how far that counts.
pub struct Taken {
    pub boards: Vec<Arc<Board>>,
    pub applied: Vec<watch::Receiver<Applied>>,
}

impl Taken {
    /// The error with what goes beyond the last epoch that counted. Call it when no source runs any more.
    pub fn told_with(&self, error: Error) -> Error {
        let Error::Fenced(why) = error else { return error };
        let read: BTreeMap<PartitionId, PartitionProgress> = self
            .boards
            .iter()
            .flat_map(|b| b.load().partitions.iter().map(|(p, at)| (p.clone(), at.clone())).collect::<Vec<_>>())
            .collect();
        let applied: BTreeMap<PartitionId, Position> = self
            .applied
            .iter()
            .flat_map(|a| a.borrow().iter().map(|(p, at)| (p.clone(), *at)).collect::<Vec<_>>())
            .collect();
        let beyond = beyond(&read, &applied);
        for (partition, span) in &beyond {
            tracing::error!(%partition, %span, "fenced: taken by this process and not recorded");
        }
        Error::Fenced(format!("{why}\n  {}", said(&beyond)))
    }
}

/// Partitions that were read further than what was applied.
fn beyond(
    read: &BTreeMap<PartitionId, PartitionProgress>,
    applied: &BTreeMap<PartitionId, Position>,
) -> BTreeMap<PartitionId, Span> {
    let mut beyond = BTreeMap::new();
    for (partition, progress) in read {
        // A partition that no record names yet: where it began is not known here, and all of it is beyond.
        let from = applied.get(partition).copied().unwrap_or_default();
        if from < progress.position {
            beyond.insert(partition.clone(), Span::new(from, progress.position));
        }
    }
    beyond
}

fn said(beyond: &BTreeMap<PartitionId, Span>) -> String {
    if beyond.is_empty() {
        return "everything this process had processed was recorded".to_string();
    }
    let mut text = "taken by this process and not recorded:".to_string();
    for (n, (partition, span)) in beyond.iter().enumerate().take(SHOWN_MAX) {
        write!(text, "{} {partition} {span}", if n == 0 { "" } else { "," }).expect("writing to a string cannot fail");
    }
    if beyond.len() > SHOWN_MAX {
        write!(text, " and {} more", beyond.len() - SHOWN_MAX).expect("writing to a string cannot fail");
    }
    text + "\n  hint: The other process reads on from where each span begins; of an MQTT source only what is not in the \
            journal named above."
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::published::Published;

    fn taken(read: &[(&str, u64)], applied: &[(&str, u64)]) -> Taken {
        let partition = |name: &str| PartitionId::new("s", name);
        let progress = |(name, at): &(&str, u64)| {
            (partition(name), PartitionProgress { position: Position(*at), ..Default::default() })
        };
        // Two slots, every second partition in the other one.
        let boards = (0..2).map(|slot| {
            let board = Board::default();
            let own = read.iter().skip(slot).step_by(2).map(progress).collect();
            board.publish(Published { partitions: Arc::new(own), ..Published::default() });
            Arc::new(board)
        });
        let applied = applied.iter().map(|(name, at)| (partition(name), Position(*at))).collect();
        Taken { boards: boards.collect(), applied: vec![watch::channel(Arc::new(applied)).1] }
    }

    fn told(read: &[(&str, u64)], applied: &[(&str, u64)]) -> String {
        taken(read, applied).told_with(Error::Fenced("by there/7/0".into())).to_string()
    }

    #[test]
    fn every_partition_read_beyond_what_counts_is_named() {
        let text = told(&[("a", 10), ("b", 7), ("new", 3)], &[("a", 4), ("b", 7), ("idle", 90)]);
        assert!(text.starts_with("fenced: by there/7/0\n"), "{text}");
        assert!(text.contains("not recorded: s:a [4, 10), s:new [0, 3)\n"), "{text}");
        assert!(told(&[("a", 4)], &[("a", 4)]).contains("everything this process had processed was recorded"));
        let names: Vec<String> = (10..30).map(|n| n.to_string()).collect();
        let many: Vec<(&str, u64)> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let text = told(&many, &[]);
        assert!(text.contains("s:17 [0, 1) and 12 more") && !text.contains("s:18"), "{text}");
    }

    #[test]
    fn another_error_stays_as_it_is() {
        let text = taken(&[("a", 1)], &[]).told_with(Error::Failed("disk full".into())).to_string();
        assert_eq!(text, "disk full");
    }
}
