//! The key-value sink: upserts by key that never go back in time.
