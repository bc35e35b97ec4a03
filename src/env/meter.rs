//! Counters and gauges by component, on the `metrics` crate: names `pipe_<thing>_<unit>[_total]`.
