//! The world as the house sees it: clock, randomness, object store. Real here; a simulated one has the same shape.

pub mod budget; // the memory budget and its shares
pub mod clock; // now, and waiting
pub mod meter; // counters and gauges, per component
pub mod offload; // blocking work
pub mod store; // object stores: local disk with real fsync, S3, GCS, Azure
pub mod uuids; // names nobody else has
