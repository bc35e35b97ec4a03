//! The journal while it runs: trims what is applied, and shows an operator how it stands.

use crate::journal::hold::Hold;
use crate::journal::segment::people;
use crate::journal::{Full, Journal};
use crate::sources::SourceContext;
use crate::sources::mqtt::{PARTITION, blocking};
use crate::types::error::Result;
use crate::types::position::{PartitionId, Position, Span};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often gauges and the trouble text are brought up to date.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

/// How the trouble text begins, and by what it is known as ours when there is room again.
const JOURNAL_FULL: &str = "journal full: ";

/// When the messages were received that are handed over and not applied: (end of a handover, receipt of its first message),
/// oldest first. As many as the in-flight budget lets out.
#[derive(Default)]
pub struct HandedOver(Mutex<VecDeque<(Position, i64)>>);

impl HandedOver {
    pub fn push(&self, to: Position, received_at_us: i64) {
        self.0.lock().expect("no holder panics").push_back((to, received_at_us));
    }

    /// Forgets what is applied.
    fn oldest_above(&self, applied: Position) -> Option<i64> {
        let mut handovers = self.0.lock().expect("no holder panics");
        while handovers.front().is_some_and(|(to, _)| *to <= applied) {
            handovers.pop_front();
        }
        handovers.front().map(|(_, received_at_us)| *received_at_us)
    }
}

pub struct Upkeep {
    name: Arc<str>,
    journal: Arc<Journal>,
    hold: Arc<Hold>,
    applied: Position,
    context: SourceContext,
    handed_over: Arc<HandedOver>,
}

impl Upkeep {
    /// `from`: where the record says that reading goes on.
    pub fn new(name: Arc<str>, journal: Arc<Journal>, from: Position, context: SourceContext) -> Upkeep {
        let hold = Arc::new(journal.hold(from));
        Upkeep { name, journal, hold, applied: from, context, handed_over: Arc::default() }
    }

    pub fn handed_over(&self) -> Arc<HandedOver> {
        self.handed_over.clone()
    }

    /// Ends only with an error.
    pub async fn run(mut self) -> Result<()> {
        let partition = PartitionId::new(&self.name, PARTITION);
        let mut tick = tokio::time::interval(SHOWN_EVERY);
        let mut is_engine_there = true;
        loop {
            let applied = self.context.applied.borrow_and_update().get(&partition).copied();
            if let Some(applied) = applied.filter(|applied| *applied > self.applied) {
                self.applied = applied;
                let hold = self.hold.clone();
                blocking(move || hold.release(applied)).await?;
            }
            self.show();
            tokio::select! {
                // Nobody applies anything more when the engine ends.
                changed = self.context.applied.changed(), if is_engine_there => is_engine_there = changed.is_ok(),
                _ = tick.tick() => {}
            }
        }
    }

    fn show(&self) {
        let (bytes, bytes_max) = (self.journal.bytes(), self.journal.options().bytes_max);
        let end = self.journal.durable().borrow().to;
        let unapplied = Span::new(self.applied.min(end), end);
        let oldest = self.handed_over.oldest_above(self.applied);
        let age_us = oldest.map_or(0, |received| (self.context.clock.now_us() - received).max(0));
        let component = || self.name.to_string();
        metrics::gauge!("pipe_journal_bytes", "component" => component()).set(bytes as f64);
        metrics::gauge!("pipe_journal_bytes_max", "component" => component()).set(bytes_max as f64);
        metrics::gauge!("pipe_journal_unapplied_messages", "component" => component())
            .set((unapplied.to.0 - unapplied.from.0) as f64);
        metrics::gauge!("pipe_journal_oldest_unapplied_seconds", "component" => component()).set(age_us as f64 / 1e6);
        let full = self.journal.full();
        metrics::gauge!("pipe_journal_full", "component" => component()).set(full.is_some() as u8 as f64);
        let because = match full {
            None => {
                let mut trouble = self.context.status.trouble.lock().expect("no holder panics");
                if trouble.starts_with(JOURNAL_FULL) {
                    trouble.clear();
                }
                return;
            }
            Some(Full::Disk) => "because its disk has no space left".to_string(),
            Some(Full::Budget) if unapplied.is_empty() => "because the budget is smaller than one segment".to_string(),
            Some(Full::Budget) => {
                format!("because messages {} are not applied yet, see what the checkpoint waits for", people(unapplied))
            }
        };
        self.context.status.held_up(format!(
            "{JOURNAL_FULL}{bytes} bytes of {bytes_max}; {because}; acknowledgements wait, the broker keeps what comes"
        ));
    }
}
