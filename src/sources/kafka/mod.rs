//! The kafka source.
