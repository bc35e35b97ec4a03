//! Delta tables: exactly-once append with the application transaction, through our own commit loop.
//!
//! `DeltaSink` is one `[sink.x] type = "delta"`; `Table` is one table of it. Per epoch and slot: `Table::writer` ->
//! `EpochWriter::write`* -> `finish` gives Add actions (invisible, PREPARE). `Table::apply` puts a record's Adds into the
//! log with the application transaction (APPLY, idempotent, I6, I7).

pub mod config;
pub mod table;
