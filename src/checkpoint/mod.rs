//! The record chain: one durable record per epoch, and pure decisions over what is observed in the store.

pub mod audit; // do records, tables and the rest tell one story
pub mod decide; // what a start does, given what is in the store
pub mod feeds; // what tables are filled with, and since when
pub mod next; // from one record to the next
pub mod place; // where records and state segments are kept
pub mod record; // the one durable object per epoch
pub mod retain; // what a clean-up deletes

#[cfg(test)]
pub mod testing;
