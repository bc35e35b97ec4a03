//! Bytes -> Arrow rows and rejects: strict, schema-driven, one pass.

pub mod json;
