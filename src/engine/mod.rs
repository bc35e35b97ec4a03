//! ingest -> worker -> deliver -> checkpointer: the slot loop and its epochs.
