//! The invariants I1..I14 of docs/architecture.md: one registry for docs, assertions and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct Invariant {
    pub id: &'static str,
    pub text: &'static str,
    violations: AtomicU64,
}

impl Invariant {
    const fn new(id: &'static str, text: &'static str) -> Self {
        Invariant { id, text, violations: AtomicU64::new(0) }
    }

    pub fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }
}

macro_rules! invariants {
    ($($id:ident $text:literal;)*) => {
        $(pub static $id: &Invariant = {
            static THIS: Invariant = Invariant::new(stringify!($id), $text);
            &THIS
        };)*
        pub static ALL: &[&Invariant] = &[$($id),*];
    };
}

invariants! {
    I1 "a source is acknowledged only up to what is durable (journal) or applied (record)";
    I2 "every message is in exactly one batch, in order per partition";
    I3 "per batch, messages = decoded + rejected + dropped by rule";
    I4 "state is a fold: replay equals live (floats within tolerance)";
    I5 "record N exists => every byte it references is durable";
    I6 "nothing prepared is in the Delta log before its record exists";
    I7 "apply(N) twice = once";
    I8 "a record never changes, epochs have no holes";
    I9 "accounted bytes <= budget";
    I10 "a query sees one cut";
    I11 "no silent reject: reason, position, counter";
    I12 "a secret never reaches a log, Debug, UI or error";
    I13 "a KV value never goes back in time";
    I14 "clean-up deletes only what no retained record references, and fails closed";
}

/// Asserts an invariant in every build: going on after a broken promise would lose or double data. The panic ends the
/// slot or task; the supervisor stops the process with exit code 1 and the record chain decides at the next start.
#[track_caller]
pub fn check(invariant: &'static Invariant, holds: bool, detail: impl FnOnce() -> String) {
    if !holds {
        invariant.violations.fetch_add(1, Ordering::Relaxed);
        panic!("invariant {} broken ({}): {}", invariant.id, invariant.text, detail());
    }
}
