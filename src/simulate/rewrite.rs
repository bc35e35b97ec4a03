//! Field rewrites for a replay: `sent_at=now`, `measurements[].t=now`, `vehicle_id=prefix:X`, `fleet_id=const:demo`.

use serde_json::Value;

#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    path: Vec<Step>,
    to: To,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Every element.
    Each,
}

#[derive(Clone, Debug, PartialEq)]
enum To {
    /// The recorded instant, shifted as the message itself is: the distances inside a message stay.
    Now,
    Const(Value),
    Prefix(String),
}

impl Rewrite {
    pub fn parse(text: &str) -> Result<Rewrite, String> {
        let wrong = || format!("\"{text}\" is no rewrite: write path=now, path=const:VALUE or path=prefix:TEXT");
        let (path, to) = text.split_once('=').ok_or_else(wrong)?;
        let to = match to.split_once(':') {
            None if to == "now" => To::Now,
            Some(("const", value)) => {
                To::Const(serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())))
            }
            Some(("prefix", prefix)) => To::Prefix(prefix.to_owned()),
            _ => return Err(wrong()),
        };
        let mut steps = Vec::new();
        for part in path.split('.') {
            let (name, each) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
            if name.is_empty() {
                return Err(wrong());
            }
            steps.push(Step::Field(name.to_owned()));
            steps.extend(each.then_some(Step::Each));
        }
        Ok(Rewrite { path: steps, to })
    }

    /// Fields that are absent or of another type stay as they are. `shift_us`: from recorded to replayed time.
    pub fn apply(&self, message: &mut Value, shift_us: i64) {
        rewrite(message, &self.path, &self.to, shift_us);
    }
}

fn rewrite(value: &mut Value, path: &[Step], to: &To, shift_us: i64) {
    match (path.split_first(), value) {
        (Some((Step::Field(name), rest)), Value::Object(fields)) => {
            if let Some(field) = fields.get_mut(name) {
                rewrite(field, rest, to, shift_us);
            }
        }
        (Some((Step::Each, rest)), Value::Array(elements)) => {
            for element in elements {
                rewrite(element, rest, to, shift_us);
            }
        }
        (None, value) => match (to, &mut *value) {
            (To::Const(constant), _) => *value = constant.clone(),
            (To::Prefix(prefix), Value::String(text)) => text.insert_str(0, prefix),
            (To::Now, Value::String(text)) => {
                if let Some(t_us) = instant_us(text) {
                    *text = write_instant(t_us + shift_us);
                }
            }
            (To::Prefix(_) | To::Now, _) => {}
        },
        (Some(_), _) => {}
    }
}

/// Microseconds UTC of ISO-8601 text; without offset it is UTC.
pub fn instant_us(text: &str) -> Option<i64> {
    if let Ok(t) = chrono::DateTime::parse_from_rfc3339(text) {
        return Some(t.timestamp_micros());
    }
    Some(text.parse::<chrono::NaiveDateTime>().ok()?.and_utc().timestamp_micros())
}

fn write_instant(t_us: i64) -> String {
    chrono::DateTime::from_timestamp_micros(t_us)
        .map_or_else(String::new, |t| t.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rewrite_is_explained() {
        for text in ["", "now", "=now", "a=", "a=later", "a=pre:x", "a..b=now", "[]=now"] {
            assert!(Rewrite::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_rewritten_by_path() {
        let message =
            r#"{"id":"v1","at":"2026-01-01T00:00:00Z","n":1,"ms":[{"t":"2026-01-01T00:00:01Z"},{}],"o":{"k":"x"}}"#;
        let hour = 3_600_000_000;
        let cases = [
            ("id=prefix:X-", r#""id":"X-v1""#),
            ("n=prefix:X", r#""n":1"#),
            ("n=const:2.5", r#""n":2.5"#),
            ("o.k=const:hello", r#""o":{"k":"hello"}"#),
            ("o.missing=const:1", r#""o":{"k":"x"}"#),
            ("at=now", r#""at":"2026-01-01T01:00:00.000000Z""#),
            ("ms[].t=now", r#"[{"t":"2026-01-01T01:00:01.000000Z"},{}]"#),
            ("id=now", r#""id":"v1""#),
        ];
        for (text, want) in cases {
            let mut value: Value = serde_json::from_str(message).expect("JSON");
            Rewrite::parse(text).expect("a rewrite").apply(&mut value, hour);
            assert!(value.to_string().contains(want), "{text}: {value}");
        }
    }
}
