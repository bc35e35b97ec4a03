//! Headers of a message as JSON text and back: what `_headers` shows, and what a dead letter keeps to be replayed.
//!
//! `[["name", "text"], ["name", null], ["name", {"base64": "..."}]]`, in their order; nothing is lost on the way.

use crate::types::message::Headers;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

pub fn to_json(headers: &Headers) -> String {
    let pairs: Vec<Value> = headers
        .iter()
        .map(|(name, value)| match value.as_ref().map(|v| std::str::from_utf8(v).map_err(|_| v)) {
            None => json!([name.as_ref(), null]),
            Some(Ok(text)) => json!([name.as_ref(), text]),
            Some(Err(raw)) => json!([name.as_ref(), { "base64": STANDARD.encode(raw) }]),
        })
        .collect();
    Value::Array(pairs).to_string()
}

/// An error says what is wrong with the text.
pub fn from_json(text: &str) -> Result<Headers, String> {
    let pairs: Vec<(String, Value)> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let header = |(name, value): (String, Value)| {
        let value = match value {
            Value::Null => None,
            Value::String(text) => Some(Bytes::from(text)),
            other => {
                let raw = other["base64"].as_str().ok_or_else(|| format!("header \"{name}\" is {other}"))?;
                Some(STANDARD.decode(raw).map_err(|e| format!("header \"{name}\": {e}"))?.into())
            }
        };
        Ok((name.into(), value))
    };
    pairs.into_iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_went() {
        let headers: Headers = vec![
            ("a".into(), Some(Bytes::from("text \"é\""))),
            ("a".into(), None),
            ("".into(), Some(Bytes::from_static(b"\xff\x00"))),
            ("b".into(), Some(Bytes::new())),
        ];
        let text = to_json(&headers);
        assert_eq!(text, r#"[["a","text \"é\""],["a",null],["",{"base64":"/wA="}],["b",""]]"#);
        assert_eq!(from_json(&text).expect("what we wrote"), headers);
        assert_eq!(from_json("[]").expect("none"), Headers::new());
        for wrong in ["{}", "[[1,2]]", "[[\"a\",7]]", "[[\"a\",{\"base64\":\"?\"}]]"] {
            assert!(from_json(wrong).is_err(), "{wrong}");
        }
    }
}
