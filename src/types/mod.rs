//! The words of the house as plain data: everything above speaks in these types, and they use nothing above them.

pub mod catalog; // what SQL may refer to: sources and sinks by name
pub mod change; // upsert or delete of a key
pub mod count; // the ledger: received = decoded + rejected + dropped
pub mod epoch; // Epoch, ChainId
pub mod error; // whose move it is when something failed
pub mod fault; // what is wrong with a config or a statement: file:line:column, message, hint
pub mod invariant; // I1..I14, asserted and counted
pub mod limit;
pub mod lineage; // which message a row came from
pub mod message; // what a source hands over: Message, Messages
pub mod position; // where in a partition: Position, Span, PartitionId
pub mod reject; // a message set aside, with a reason
pub mod table; // what a message looks like: Table, Column, ColumnType, Route // every bound, with its argument
pub mod table_log; // what a lake table's log says about its files
