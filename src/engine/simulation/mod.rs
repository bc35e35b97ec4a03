//! The engine under a seed: its real parts on one thread, turned in an order a seed decides, over models of everything
//! outside; crashes at any step, faults in every store; the promises checked after every step. See docs/simulation.md.
//!
//! Real: the worker with decoding, plan and state, the checkpointer, deliver, the chain of records, recovery, the
//! upsert thread's loop, intake and budget. Models: the checkpoint location, the lake's log, the key-value store, the
//! sources and their brokers, time.

mod broker; // a source that cannot be read again, behind the real journal
mod check; // what must hold after every step
mod dice; // the one source of chance
mod expect; // what every message should become
mod kv; // a key-value store that loses its tail in a power cut
mod lake; // a log of commits per table
mod letters; // the dead letters, for a replay to read
mod life; // one process, turned by hand
pub mod planted; // bugs put in on purpose, to show that they are found
pub mod run; // one seed, from nothing to the last check
mod store; // an object store that fails
#[cfg(test)]
mod tests;
mod topics; // partitions that can be read again
mod trace; // what happened, and a hash of it
mod turns; // tasks, polled one at a time
pub mod world; // what outlives a process
