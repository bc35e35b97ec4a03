//! ingest -> worker -> deliver -> checkpointer: the slot loop and its epochs.

pub mod load; // config file -> config, SQL files, catalog, plan
