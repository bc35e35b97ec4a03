//! Text -> validated spec, with spans: every fault at once as file:line:column with a hint.
