//! The mqtt source.
