//! One simulated message, and what became of it on purpose: the account's unit.

use bytes::Bytes;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Kinematic,
    Ignition,
    Status,
    Control,
    Response,
    /// From a recorded file.
    Recorded,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kinematic => "kinematic",
            Kind::Ignition => "ignition",
            Kind::Status => "status",
            Kind::Control => "control",
            Kind::Response => "response",
            Kind::Recorded => "recorded",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Good,
    /// Not decodable under the fleet's tables.
    Malformed,
    /// The bytes of an earlier message once more, as a device does that missed the acknowledgement.
    Duplicate,
    /// Measured 10 to 60 minutes before it is sent.
    Late,
    /// Sent after messages of the same vehicle that were measured later.
    OutOfOrder,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Good => "good",
            Class::Malformed => "malformed",
            Class::Duplicate => "duplicate",
            Class::Late => "late",
            Class::OutOfOrder => "out_of_order",
        }
    }
}

/// Which of a device's two streams: kinematics, or everything beside them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    Kinematic,
    Status,
}

impl Stream {
    pub fn name(self) -> &'static str {
        match self {
            Stream::Kinematic => "kinematic",
            Stream::Status => "status",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub kind: Kind,
    pub class: Class,
    pub stream: Stream,
    pub topic: Arc<str>,
    /// The vehicle: what Kafka partitions by.
    pub key: Arc<str>,
    pub payload: Bytes,
    /// When it was measured: the latest instant in it. Microseconds UTC on the fleet's own clock, as is `due_us`.
    pub event_time_us: i64,
    /// When it is sent; never decreases from message to message.
    pub due_us: i64,
    /// In the payload of every message that is not malformed; a duplicate repeats it.
    pub message_id: Arc<str>,
    /// Measurements in it: the rows that `points` gets from it. 0 when malformed, and for all but kinematics.
    pub rows: u32,
}
