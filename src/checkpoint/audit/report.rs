//! What an audit looked at and what did not fit, for people and programs alike.

use crate::types::epoch::{ChainId, Epoch};

#[derive(Clone, Debug)]
pub struct Report {
    pub pipeline: String,
    pub chain: ChainId,
    /// The retained records.
    pub first: Epoch,
    pub last: Epoch,
    pub applied_through: Epoch,
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug)]
pub struct Check {
    /// chain, source, ledger, table, state, mark
    pub what: &'static str,
    pub subject: String,
    /// What was counted on the way, in order: ("records", 12).
    pub looked_at: Vec<(&'static str, u64)>,
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: Kind,
    pub text: String,
    /// What to do; empty when there is nothing to be done.
    pub hint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Two things that must be equal are not.
    Difference,
    /// Something could not be looked at, so nobody can say.
    Unseen,
    /// Worth knowing, and accounted for.
    Note,
}

impl Report {
    pub fn count(&self, kind: Kind) -> usize {
        self.checks.iter().flat_map(|c| &c.findings).filter(|f| f.kind == kind).count()
    }
}

impl Check {
    pub fn new(what: &'static str, subject: impl Into<String>) -> Self {
        Check { what, subject: subject.into(), looked_at: Vec::new(), findings: Vec::new() }
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.findings.iter().any(|f| f.kind == kind)
    }

    pub(super) fn counted(&mut self, thing: &'static str, n: u64) {
        match self.looked_at.iter_mut().find(|(name, _)| *name == thing) {
            Some((_, count)) => *count += n,
            None => self.looked_at.push((thing, n)),
        }
    }

    pub(super) fn differs(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding { kind: Kind::Difference, text: text.into(), hint: hint.into() });
    }

    pub(super) fn unseen(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding { kind: Kind::Unseen, text: text.into(), hint: hint.into() });
    }

    pub(super) fn note(&mut self, text: impl Into<String>, hint: impl Into<String>) {
        self.findings.push(Finding { kind: Kind::Note, text: text.into(), hint: hint.into() });
    }
}
