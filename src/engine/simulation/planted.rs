//! Bugs put into the engine on purpose, one at a time, in tests alone: the simulation must find each of them.

use std::cell::Cell;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A start does not apply the decided epoch again.
    RecoverySkipsApply,
    /// The claim record is not written.
    ClaimSkipped,
    /// A record leaves out the newest state segment of a share.
    SegmentForgotten,
    /// Sources hear of an epoch before its tables have it.
    AppliedTooEarly,
    /// A slot drops its uncommitted rows at the cut, not when the lake has them.
    RowsDroppedAtCut,
    /// Whatever is under the record's name counts as ours.
    FenceIgnored,
    /// A commit does not look for its transaction in the log.
    TransactionUnchecked,
    /// A broker's message is acknowledged before the journal has synced it.
    AckBeforeSync,
    /// Changes flow to the key-value store before replay has passed its marker.
    HoldBackSkipped,
    /// State is restored from a share's base alone.
    TailNotRestored,
    /// A view that changed is taken for what it was.
    ChangedViewKept,
    /// A rebuild stops before its last batch.
    RebuildCutShort,
    /// A slot takes what comes, whatever is full.
    BudgetIgnored,
    /// A record tells a secret.
    SecretTold,
    /// A replayed message leaves no row that says so.
    ReplayNotMarked,
    /// A replay counts its messages from the first position again.
    ReplayBeginsAnew,
    /// A replayed message goes under the replay's name, not under its own.
    ReplayRenames,
}

pub const ALL: [Bug; 17] = [
    Bug::RecoverySkipsApply,
    Bug::ClaimSkipped,
    Bug::SegmentForgotten,
    Bug::AppliedTooEarly,
    Bug::RowsDroppedAtCut,
    Bug::FenceIgnored,
    Bug::TransactionUnchecked,
    Bug::AckBeforeSync,
    Bug::HoldBackSkipped,
    Bug::TailNotRestored,
    Bug::ChangedViewKept,
    Bug::RebuildCutShort,
    Bug::BudgetIgnored,
    Bug::SecretTold,
    Bug::ReplayNotMarked,
    Bug::ReplayBeginsAnew,
    Bug::ReplayRenames,
];

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// A run stays on its thread, so a bug planted there disturbs no other test.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
