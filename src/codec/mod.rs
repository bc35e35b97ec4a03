//! Bytes -> Arrow rows and rejects: strict, schema-driven, one pass.

mod column; // builders that can roll back
mod failure; // why a message is set aside, and where in it
pub mod json; // the decoder: messages of one source -> rows per table, and rejects
mod number; // exact integers and decimals from number text
mod route; // which table takes a message
mod row; // one JSON object -> one row
mod skip; // values nobody declares: checked, counted, or kept as compact text
#[cfg(test)]
mod suite; // JSONTestSuite, or built-in cases
#[cfg(test)]
mod tests;
mod time; // ISO-8601 and epoch numbers -> microseconds UTC
mod value; // one JSON value -> one column
