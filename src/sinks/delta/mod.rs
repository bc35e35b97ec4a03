//! Delta tables: exactly-once append with the application transaction, through our own commit loop.
//!
//! `DeltaSink` is one `[sink.x] type = "delta"`; `Table` is one table of it. Per epoch and slot: `Table::writer` ->
//! `EpochWriter::write`* -> `finish` gives Add actions (invisible, PREPARE). `Table::apply` puts a record's Adds into the
//! log with the application transaction (APPLY, idempotent, I6, I7).
//!
//! delta-rs writes the files and reads them back; the log is ours, because a commit that reports an error may have
//! landed, and only the transaction in the log can tell.

mod bins; // which small files go together next
pub mod census; // whose rows a table holds, counted; and all of them
mod checkpoint; // checkpoints of the log, and its clean-up
mod commit; // the commit loop
mod compact; // small files become large ones
pub mod config;
mod files; // which files the log names
pub mod history; // the log file by file, for audits
mod log; // what the log says, and the text of our commits
pub mod look; // how a table fits what will be written
mod paced; // uploads no faster than the store takes them
mod protocol; // which tables we may append to
mod rows; // rows of a statement as rows of the table
mod schema; // Arrow and Delta types, and how a table may grow
pub mod sink; // connects, opens or creates tables
mod snapshot; // a pinned version for readers
mod summarise; // a checkpoint of the log, from the one before
pub mod table; // one table: writers, apply, snapshots
pub mod upkeep; // beside the stream: when to checkpoint, compact and vacuum
mod vacuum; // files that no version needs
mod writer; // an epoch's Parquet files

#[cfg(test)]
mod tests;
