//! What a process that was fenced leaves behind: messages it had taken and not recorded, per partition, because nobody
//! else can say it; and of those it acknowledged, where they are.

use crate::engine::published::Board;
use crate::journal;
use crate::sources::Applied;
use crate::types::error::{Error, Result};
use crate::types::position::{PartitionId, Position, Span};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Partitions named in the error; the log names all.
const SHOWN_MAX: usize = 8;

/// Where one learns how far this process has read, and how far that counts.
pub struct LeftBehind {
    pub boards: Vec<Arc<Board>>,
    pub sources: Vec<FencedSource>,
    /// Partitions that this process did not read, where they stand.
    pub idle: BTreeMap<PartitionId, Position>,
}

pub struct FencedSource {
    pub name: String,
    /// Most sources have none.
    pub journal: PathBuf,
    pub applied: watch::Receiver<Applied>,
}

/// Messages from the last that counted to the end of a journal: acknowledged, some of them, and on this disk alone.
struct InJournal {
    source: String,
    dir: PathBuf,
    span: Result<Span>,
}

impl LeftBehind {
    /// The error of a fenced process with everything beyond the last epoch that counted; another error as it is. Call it
    /// when no source runs any more: journals do not grow then.
    pub fn told_with(&self, error: Error) -> Error {
        let Error::Fenced(why) = error else { return error };
        let journals: Vec<InJournal> = self.sources.iter().filter_map(FencedSource::in_journal).collect();
        let beyond = self.beyond();
        for (partition, span) in &beyond {
            tracing::error!(%partition, %span, "fenced: taken by this process and not recorded");
        }
        let mut text = why;
        for InJournal { source, dir, span } in &journals {
            let dir = dir.display();
            text += &match span {
                Ok(span) => format!(
                    "\n  source \"{source}\": messages {} to {} are in the journal \"{dir}\" only, where some of them were \
                     acknowledged and not applied; keep that directory, the other process does not have them",
                    span.from,
                    span.to.0 - 1
                ),
                Err(e) => format!("\n  source \"{source}\": what it left in its journal \"{dir}\" cannot be told: {e}"),
            };
        }
        // What is in a journal was named with it.
        let is_told = |source: &str| journals.iter().any(|j| j.source == source && j.span.is_ok());
        let others: Vec<(&PartitionId, &Span)> = beyond.iter().filter(|(p, _)| !is_told(&p.source)).collect();
        if others.is_empty() {
            if journals.is_empty() {
                text += "\n  everything this process had processed was recorded";
            }
            return Error::Fenced(text);
        }
        let shown: Vec<String> = others.iter().take(SHOWN_MAX).map(|(p, span)| format!("{p} {span}")).collect();
        text += &format!("\n  taken by this process and not recorded: {}", shown.join(", "));
        if others.len() > SHOWN_MAX {
            text += &format!(" and {} more", others.len() - SHOWN_MAX);
        }
        text += "\n  hint: The other process reads on from where each span begins.";
        Error::Fenced(text)
    }

    /// Partitions that were read further than what was applied.
    fn beyond(&self) -> BTreeMap<PartitionId, Span> {
        let mut beyond = BTreeMap::new();
        let mut applied = self.idle.clone();
        for source in &self.sources {
            applied.extend(source.applied.borrow().iter().map(|(p, at)| (p.clone(), *at)));
        }
        for board in &self.boards {
            for (partition, progress) in board.load().partitions.iter() {
                // A partition that no record names yet: where it began is not known here, and all of it is beyond.
                let from = applied.get(partition).copied().unwrap_or_default();
                if from < progress.position {
                    beyond.insert(partition.clone(), Span::new(from, progress.position));
                }
            }
        }
        beyond
    }
}

impl FencedSource {
    fn in_journal(&self) -> Option<InJournal> {
        let applied: Option<Position> =
            self.applied.borrow().iter().find(|(p, _)| *p.source == *self.name).map(|(_, position)| *position);
        let span = match journal::peek(&self.journal) {
            Ok(kept) => {
                let kept = kept?;
                let from = applied.unwrap_or(kept.from).max(kept.from);
                if from >= kept.to {
                    return None;
                }
                Ok(Span::new(from, kept.to))
            }
            Err(e) => Err(e),
        };
        Some(InJournal { source: self.name.clone(), dir: self.journal.clone(), span })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::published::{PartitionProgress, Published};
    use crate::journal::entry::Entry;
    use crate::journal::{Journal, JournalOptions};
    use crate::types::epoch::ChainId;
    use std::path::Path;

    fn journal(data: &Path, source: &str, messages: u64) {
        let options = JournalOptions::with_budget(1 << 30, 0);
        let dir = journal::directory(data, source);
        let journal = Journal::open(&dir, &ChainId("chain-1".into()), Position(0), options).expect("opens");
        for n in 0..messages {
            let entry =
                Entry { received_at_us: n as i64, topic: "t".into(), flags: 1, headers: None, payload: "x".into() };
            journal.appender().try_append(entry, None).expect("there is room");
        }
    }

    /// "source:partition" and a position.
    type At<'a> = (&'a str, u64);

    fn told(data: &Path, read: &[At], applied: &[At]) -> String {
        let partition = |name: &str| {
            let (source, name) = name.split_once(':').expect("source:partition");
            PartitionId::new(source, name)
        };
        let progress =
            |(name, at): &At| (partition(name), PartitionProgress { position: Position(*at), ..Default::default() });
        // Two slots, every second partition in the other one.
        let boards = (0..2).map(|slot| {
            let board = Board::default();
            let own = read.iter().skip(slot).step_by(2).map(progress).collect();
            board.publish(Published { partitions: Arc::new(own), ..Published::default() });
            Arc::new(board)
        });
        let sources: std::collections::BTreeSet<&str> =
            read.iter().chain(applied).filter_map(|(name, _)| name.split_once(':').map(|(source, _)| source)).collect();
        let source = |name: &str| {
            let own = applied.iter().map(|(p, at)| (partition(p), Position(*at))).filter(|(p, _)| *p.source == *name);
            // The sender is gone, as it is when the engine has ended.
            let applied = watch::channel(Arc::new(own.collect())).1;
            FencedSource { name: name.into(), journal: journal::directory(data, name), applied }
        };
        let left = LeftBehind {
            boards: boards.collect(),
            sources: sources.into_iter().map(source).collect(),
            idle: BTreeMap::new(),
        };
        let other = left.told_with(Error::Failed("disk full".into())).to_string();
        assert_eq!(other, "disk full", "another error stays as it is");
        left.told_with(Error::Fenced("by there/7/0".into())).to_string()
    }

    #[test]
    fn every_partition_read_beyond_what_counts_is_named() {
        let data = tempfile::tempdir().expect("a directory");
        let told = |read: &[At], applied: &[At]| told(data.path(), read, applied);
        let text = told(&[("s:a", 10), ("s:b", 7), ("s:new", 3)], &[("s:a", 4), ("s:b", 7), ("s:idle", 90)]);
        assert!(text.starts_with("fenced: by there/7/0\n"), "{text}");
        assert!(text.contains("not recorded: s:a [4, 10), s:new [0, 3)\n"), "{text}");
        let nothing = told(&[("s:a", 4)], &[("s:a", 4)]);
        assert!(nothing.contains("everything this process had processed was recorded"), "{nothing}");
        let names: Vec<String> = (10..30).map(|n| format!("s:{n}")).collect();
        let many: Vec<At> = names.iter().map(|n| (n.as_str(), 1)).collect();
        let text = told(&many, &[]);
        assert!(text.contains("s:17 [0, 1) and 12 more") && !text.contains("s:18"), "{text}");
    }

    #[test]
    fn what_is_in_a_journal_only_is_named_once_with_its_place() {
        let data = tempfile::tempdir().expect("a directory");
        for (source, messages) in [("behind", 10), ("never", 3), ("done", 5)] {
            journal(data.path(), source, messages);
        }
        let read = [("behind:journal", 7), ("done:journal", 5), ("kafka:0", 9)];
        let text =
            told(data.path(), &read, &[("behind:journal", 4), ("done:journal", 5), ("kafka:0", 7), ("never:x", 0)]);
        assert!(text.contains("\n  source \"behind\": messages 4 to 9 are in the journal"), "{text}");
        assert!(text.contains("\n  source \"never\": messages 0 to 2 are in the journal"), "{text}");
        assert!(text.contains("not recorded: kafka:0 [7, 9)\n") && !text.contains("\"done\""), "{text}");
    }
}
