//! The world as the house sees it: clock, randomness, object store. Real here; a simulated one has the same shape.

pub mod budget;
pub mod clock;
pub mod meter; // counters and gauges, per component
pub mod store; // object stores: local disk with real fsync, S3, GCS, Azure // the memory budget and its shares
