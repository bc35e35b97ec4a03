//! What a fenced process leaves behind: messages it acknowledged and did not get into any table, in its journals only.

use crate::journal;
use crate::sources::Applied;
use crate::types::error::Error;
use crate::types::position::Position;
use std::path::PathBuf;
use tokio::sync::watch;

/// A source that has a journal on this machine.
pub struct Journalled {
    pub source: String,
    pub dir: PathBuf,
    pub applied: watch::Receiver<Applied>,
}

/// The error of a fenced process, with the un-applied range of every journal. Call when the sources have ended: their
/// journals do not grow any more.
pub fn with_left_behind(error: Error, journals: &[Journalled]) -> Error {
    let Error::Fenced(why) = error else { return error };
    let left: Vec<String> = journals.iter().filter_map(left_behind).collect();
    Error::Fenced(if left.is_empty() { why } else { format!("{why}; {}", left.join("; ")) })
}

fn left_behind(journalled: &Journalled) -> Option<String> {
    let Journalled { source, dir, applied } = journalled;
    let applied: Option<Position> =
        applied.borrow().iter().find(|(p, _)| *p.source == **source).map(|(_, position)| *position);
    let kept = match journal::peek(dir) {
        Ok(kept) => kept?,
        Err(e) => return Some(format!("source \"{source}\": what it left in its journal cannot be told: {e}")),
    };
    let from = applied.unwrap_or(kept.from).max(kept.from);
    (from < kept.to).then(|| {
        format!(
            "source \"{source}\": messages {from} to {} are in the journal \"{}\" only, where some of them were \
             acknowledged and not applied; keep that directory, the other process does not have them",
            kept.to.0 - 1,
            dir.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::entry::Entry;
    use crate::journal::{Journal, JournalOptions};
    use crate::types::epoch::ChainId;
    use crate::types::position::PartitionId;
    use std::path::Path;
    use std::sync::Arc;

    fn journal(dir: &Path, messages: u64) {
        let options = JournalOptions::with_budget(1 << 30, 0);
        let journal = Journal::open(dir, &ChainId("chain-1".into()), Position(0), options).expect("opens");
        for n in 0..messages {
            let entry =
                Entry { received_at_us: n as i64, topic: "t".into(), flags: 1, headers: None, payload: "x".into() };
            journal.appender().try_append(entry, None).expect("there is room");
        }
    }

    #[test]
    fn the_error_names_what_is_in_the_journal_only() {
        let data = tempfile::tempdir().expect("a directory");
        let journalled = |source: &str, applied: Option<u64>| {
            let partition = PartitionId::new(source, "journal");
            let positions = applied.map(|at| (partition, Position(at))).into_iter().collect();
            // The sender is gone, as it is when the engine has ended.
            let (_, applied) = watch::channel(Arc::new(positions));
            Journalled { source: source.into(), dir: journal::directory(data.path(), source), applied }
        };
        journal(&data.path().join("journal/behind"), 10);
        journal(&data.path().join("journal/never"), 3);
        journal(&data.path().join("journal/done"), 5);
        let journals = [
            journalled("behind", Some(4)),
            journalled("never", None),
            journalled("done", Some(5)),
            journalled("kafka", Some(7)),
        ];
        let told = with_left_behind(Error::Fenced("record 7 is another's".into()), &journals).to_string();
        assert!(told.starts_with("fenced: record 7 is another's; source \"behind\": messages 4 to 9 are in"), "{told}");
        assert!(told.contains("; source \"never\": messages 0 to 2 are in"), "{told}");
        assert!(!told.contains("\"done\"") && !told.contains("\"kafka\""), "{told}");
        let other = with_left_behind(Error::Failed("disk".into()), &journals).to_string();
        assert_eq!(other, "disk");
    }
}
