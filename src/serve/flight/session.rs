//! Session options: there are no sessions here, so the only options that can be set are the values that hold anyway.
//!
//! The messages are those of Flight's protocol; the Arrow crate does not have them yet.

use crate::query::catalog::{CATALOG, HOT};
use prost::Message;
use std::collections::HashMap;
use tonic::Status;

pub const SET: &str = "SetSessionOptions";
pub const GET: &str = "GetSessionOptions";
pub const CLOSE: &str = "CloseSession";

#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    List(TextList),
}

#[derive(Clone, PartialEq, Message)]
pub struct TextList {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Also the shape of `GetSessionOptionsResult`.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptions {
    #[prost(map = "string, message", tag = "1")]
    pub options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OptionError {
    #[prost(enumeration = "OptionErrorValue", tag = "1")]
    pub value: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum OptionErrorValue {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
pub enum CloseSessionStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}

fn options() -> [(&'static str, &'static str); 2] {
    [("catalog", CATALOG), ("schema", HOT)]
}

/// The body of the answer to one of the three actions.
pub fn answer(action: &str, body: &[u8]) -> Result<Option<Vec<u8>>, Status> {
    Ok(Some(match action {
        SET => {
            let asked = SessionOptions::decode(body).map_err(|e| Status::invalid_argument(e.to_string()))?;
            set(asked).encode_to_vec()
        }
        GET => {
            let text = |v: &str| SessionOptionValue { value: Some(OptionValue::Text(v.into())) };
            let options = options().into_iter().map(|(name, value)| (name.to_string(), text(value))).collect();
            SessionOptions { options }.encode_to_vec()
        }
        CLOSE => CloseSessionResult { status: CloseSessionStatus::Closed as i32 }.encode_to_vec(),
        _ => return Ok(None),
    }))
}

fn set(asked: SessionOptions) -> SetSessionOptionsResult {
    let mut errors = HashMap::new();
    for (name, value) in asked.options {
        let wrong = match options().into_iter().find(|(known, _)| *known == name) {
            None => Some(OptionErrorValue::InvalidName),
            Some((_, known)) => match value.value {
                Some(OptionValue::Text(text)) if text == known => None,
                _ => Some(OptionErrorValue::InvalidValue),
            },
        };
        if let Some(wrong) = wrong {
            errors.insert(name, OptionError { value: wrong as i32 });
        }
    }
    SetSessionOptionsResult { errors }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(name: &str, value: &str) -> HashMap<String, OptionError> {
        let value = SessionOptionValue { value: Some(OptionValue::Text(value.into())) };
        let asked = SessionOptions { options: HashMap::from([(name.to_string(), value)]) };
        let body = answer(SET, &asked.encode_to_vec()).expect("decodes").expect("is known");
        SetSessionOptionsResult::decode(&*body).expect("is the result").errors
    }

    #[test]
    fn what_cannot_be_set_is_said() {
        assert_eq!(errors_of("nonsense", "1")["nonsense"].value(), OptionErrorValue::InvalidName);
        assert_eq!(errors_of("catalog", "other")["catalog"].value(), OptionErrorValue::InvalidValue);
        assert!(errors_of("catalog", "pipe").is_empty());
    }

    #[test]
    fn another_action_is_left_to_others() {
        assert_eq!(answer("RenewFlightEndpoint", b"").expect("is fine"), None);
    }
}
