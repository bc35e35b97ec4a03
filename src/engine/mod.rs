//! ingest -> worker -> deliver -> checkpointer: the slot loop and its epochs, from recovery to the last cut.
//!
//! `start` has `build` recover and claim the chain and make all parts, and only then connects sources. Each slot is one
//! `worker` thread (decode, plan, state, publish) with one `deliver` thread (Parquet). The `checkpointer` cuts all slots, uploads, writes the record and
//! applies it. `supervise` ends everything when one part fails. Nothing here decides what a checkpoint means: that is
//! `checkpoint::decide`.

pub mod assemble; // config sections -> connectors, plan -> tables
pub mod audit; // reads what checkpoint::audit compares
pub mod build; // all parts, recovered and claimed, not yet running
pub mod chain; // records and segments in the checkpoint location
pub mod checkpointer; // cut -> prepare -> decide -> apply
pub mod cleanup; // what nothing retained needs is deleted
pub mod dead_letter; // rejects as rows
pub mod deliver; // rows -> the epoch's Parquet files
pub mod difference; // what a start under another config or SQL would keep
pub mod fenced; // what a fenced process leaves behind
pub mod headers; // of a message, as JSON and back
pub mod ingest; // handovers -> one decoded batch
pub mod lake; // what is needed of tables that take rows exactly once
pub mod load; // config and SQL files from disk
pub mod pressure; // what a full share of the memory budget does
pub mod published; // what a slot shows after every batch
pub mod recover; // observe, decide, roll forward, claim
pub mod replay; // dead letters as a source
pub mod retry; // again, with backoff
pub mod running; // handle to a running pipeline: facts for readers, stop, wait
#[cfg(test)]
pub mod simulation; // all of it under a seed: crashes, faults, and what must hold
pub mod start; // the only start path
pub mod survey; // what is in a checkpoint location, for people
pub mod upkeep; // beside the stream: checkpoints, compaction, vacuum of the lake
pub mod upsert; // touched keys -> the key-value store
pub mod worker; // the slot loop

#[cfg(test)]
mod testing; // a whole pipeline in a folder
#[cfg(test)]
mod tests_files; // how many files an epoch makes
#[cfg(test)]
mod tests_memory; // a lake that stalls, a state that is full
