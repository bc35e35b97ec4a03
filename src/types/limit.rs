//! Every bound of the house, with its argument and what happens when it is reached.

/// Messages a slot takes into one batch. Large enough to amortise a plan execution (about 100 us), small enough that a
/// cut or a query never waits long for the batch boundary. Full: the batch is closed, the rest waits in the queue.
pub const BATCH_MESSAGES_MAX: usize = 8_192;

/// Payload bytes a slot takes into one batch; same argument, for large messages.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Messages a source puts into one `Messages`. Full: it hands over what it has.
pub const HANDOVER_MESSAGES_MAX: usize = 2_048;

/// Payload bytes a source puts into one `Messages`; a single larger message is handed over alone.
pub const HANDOVER_BYTES_MAX: usize = 1024 * 1024;

/// Entries in the queue in front of a slot. The byte budget is the real bound; this one only bounds the bookkeeping.
pub const SLOT_QUEUE_ENTRIES_MAX: usize = 1_024;

/// Largest message a source accepts unless it says otherwise. Larger: rejected as `too_large`.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Executions after which a physical plan is reset: every execution adds metrics to the plan (facts: DataFusion).
pub const PLAN_EXECUTIONS_MAX: u32 = 1_024;

/// Nesting depth of a JSON message. Deeper: rejected as syntax.
pub const JSON_DEPTH_MAX: u8 = 128;

/// Of the memory budget: in-flight data, hot state, queries. Percent.
pub const SHARE_IN_FLIGHT_PERCENT: u64 = 40;
pub const SHARE_STATE_PERCENT: u64 = 40;
pub const SHARE_QUERY_PERCENT: u64 = 20;
const _: () = assert!(SHARE_IN_FLIGHT_PERCENT + SHARE_STATE_PERCENT + SHARE_QUERY_PERCENT == 100);

/// Of the in-flight share: queues of client libraries and of journals; messages handed to slots; rows that no applied
/// epoch holds yet, with the files being written from them; compaction of the lake's tables. Percent.
pub const IN_FLIGHT_CLIENTS_PERCENT: u64 = 15;
pub const IN_FLIGHT_MESSAGES_PERCENT: u64 = 19;
pub const IN_FLIGHT_ROWS_PERCENT: u64 = 50;
pub const IN_FLIGHT_UPKEEP_PERCENT: u64 = 16;
const _: () = assert!(
    IN_FLIGHT_CLIENTS_PERCENT + IN_FLIGHT_MESSAGES_PERCENT + IN_FLIGHT_ROWS_PERCENT + IN_FLIGHT_UPKEEP_PERCENT == 100
);

/// What compaction has however small the budget: the parts of an upload alone, which object stores want at 5 MiB and
/// more, are half of it. The share reaches it at `[limits] memory = "512MiB"`.
pub const UPKEEP_BYTES_MIN: u64 = 32 * 1024 * 1024;
const _: () = assert!(HANDOVER_MESSAGES_MAX <= BATCH_MESSAGES_MAX && HANDOVER_BYTES_MAX <= BATCH_BYTES_MAX);
