//! The seeded fleet, and the in-process MQTT broker of the demo.
//!
//! `run::run` sends a fleet's (or a recording's) messages to an output at a pace and returns the exact account of it.

pub mod broker; // an MQTT broker inside this process
mod device; // when a vehicle reports, and its messages as JSON
pub mod fleet; // the endless iterator of messages
mod malformed; // messages broken in the ways devices break them
pub mod options; // what to simulate
pub mod output; // MQTT, Kafka, file, standard output, channel
mod pace; // when the next message may go out
mod random; // the same bytes from the same seed, everywhere
pub mod replay; // a recorded file instead of a fleet
pub mod rewrite; // fields changed on the way
pub mod run; // from the first message to the last acknowledgement
pub mod sent; // one message, and what was done to it on purpose
pub mod tally; // the account
#[cfg(test)]
mod tests;
mod vehicle; // where it is and what its sensors say

pub use run::run;
