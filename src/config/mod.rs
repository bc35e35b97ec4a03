//! The text of a TOML file -> a validated `Config`, with places; every fault at once as file:line:column and a hint.
//!
//! Pure: environment and secret files are looked up through `Lookups`, which the caller hands in; the file itself is read
//! by the caller. Config knows no connector: a `[source.x]` or `[sink.x]` stays a `Section`, and the connector's own
//! `config.rs` reads its struct out of it with `Section::read`, which gives unknown keys and wrong types their places.

mod dom; // TOML as a tree in which everything has its place
mod interpolate; // ${NAME}, ${NAME:-default}, ${NAME:?message}
pub mod parse; // text -> Config
mod read;
pub mod schema; // JSON Schema for editors, from the same structs
pub mod section; // one [source.x] or [sink.x], to be read by its connector
pub mod spec; // what a config says: Config and its parts
pub mod value; // Size, Period, Secret, Settings, FilePath, Address // serde over that tree

#[cfg(test)]
mod tests;
