//! The record chain: one durable record per epoch, and pure decisions over what is observed in the store.

pub mod record; // the one durable object per epoch
