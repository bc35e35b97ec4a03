//! Delta tables: exactly-once append with the application transaction, through our own commit loop.
//!
//! `DeltaSink` is one `[sink.x] type = "delta"`; `Table` is one table of it. Per epoch and slot: `Table::writer` ->
//! `EpochWriter::write`* -> `finish` gives Add actions (invisible, PREPARE). `Table::apply` puts a record's Adds into the
//! log with the application transaction (APPLY, idempotent, I6, I7).
//!
//! delta-rs writes the files and reads them back; the log is ours, because a commit that reports an error may have
//! landed, and only the transaction in the log can tell.

mod commit; // the commit loop
pub mod config;
pub mod history; // the log file by file, for audits
mod log; // what the log says, and the text of our commits
mod protocol; // which tables we may append to
mod rows; // rows of a statement as rows of the table
mod schema; // Arrow and Delta types, and how a table may grow
pub mod sink; // connects, opens or creates tables
mod snapshot; // a pinned version for readers
pub mod table; // one table: writers, apply, snapshots
mod upkeep;
mod writer; // an epoch's Parquet files // checkpoints of the log, and its clean-up

#[cfg(test)]
mod tests;
