//! What the config accepts and refuses: text in, faults out.
