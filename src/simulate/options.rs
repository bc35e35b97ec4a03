//! What to simulate, as data: how many vehicles, which shares go wrong, how fast, until when.

use crate::types::error::{Error, Result};
use crate::types::fault::Fault;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct FleetOptions {
    pub seed: u64,
    pub vehicles: u32,
    /// Where the fleet's clock starts, microseconds UTC.
    pub start_us: i64,
    pub shares: Shares,
    /// Topic of kinematics and of everything else; `{vehicle}` stands for the vehicle's id.
    pub topic_kinematic: String,
    pub topic_status: String,
}

/// Of all messages, 0 to 1. What remains is good and in time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shares {
    pub malformed: f64,
    pub duplicates: f64,
    pub late: f64,
    pub out_of_order: f64,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            seed: 1,
            vehicles: 100,
            // 2026-01-01T00:00:00Z
            start_us: 1_767_225_600_000_000,
            shares: Shares::default(),
            topic_kinematic: MQTT_TOPICS.0.into(),
            topic_status: MQTT_TOPICS.1.into(),
        }
    }
}

/// A topic per vehicle, as devices have on an MQTT broker: kinematics, everything else.
pub const MQTT_TOPICS: (&str, &str) = ("fleet/{vehicle}/kinematic", "fleet/{vehicle}/status");
/// One topic per stream, keyed by vehicle, as on Kafka.
pub const KAFKA_TOPICS: (&str, &str) = ("vehicle.kinematic", "vehicle.status");

/// When the next message may go out.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// As fast as the output takes them.
    Max,
    PerSecond(f64),
    /// Messages per second, one after the other, each for `step`; the last one stays.
    Ramp {
        per_second: Vec<f64>,
        step: Duration,
    },
    /// As the messages' own times say, this many times as fast.
    Speed(f64),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Until {
    pub messages: Option<u64>,
    pub elapsed: Option<Duration>,
}

impl FleetOptions {
    pub fn validate(&self) -> Result<()> {
        let Shares { malformed, duplicates, late, out_of_order } = self.shares;
        let each = [malformed, duplicates, late, out_of_order];
        if each.iter().any(|s| !(0.0..=1.0).contains(s)) || each.iter().sum::<f64>() > 1.0 {
            return Err(wrong(
                "shares are between 0 and 1, and at most 1 together",
                "Give a share such as 0.01 for 1 %.",
            ));
        }
        if self.vehicles == 0 {
            return Err(wrong("a fleet has at least one vehicle", "Give --vehicles 1 or more."));
        }
        Ok(())
    }
}

/// `max`, `5000/s` or `5000`.
pub fn parse_rate(text: &str) -> std::result::Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    let number = text.strip_suffix("/s").unwrap_or(text);
    positive(number).map(Rate::PerSecond).ok_or_else(|| format!("\"{text}\" is no rate: write 5000/s or max"))
}

/// `1000,2000,5000@10s`
pub fn parse_ramp(text: &str) -> std::result::Result<Rate, String> {
    let wrong = || format!("\"{text}\" is no ramp: write 1000,2000,5000@10s");
    let (rates, step) = text.split_once('@').ok_or_else(wrong)?;
    let step = humantime::parse_duration(step).ok().filter(|step| !step.is_zero()).ok_or_else(wrong)?;
    let per_second = rates.split(',').map(|rate| positive(rate.trim())).collect::<Option<Vec<f64>>>();
    Ok(Rate::Ramp { per_second: per_second.ok_or_else(wrong)?, step })
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)
}

/// The call is wrong: exit code 2.
pub fn wrong(message: impl Into<String>, hint: &str) -> Error {
    let file = "simulate".into();
    Error::Config(vec![Fault { file, line: 0, column: 0, message: message.into(), hint: Some(hint.into()) }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_ramps_are_read_or_explained() {
        for text in ["", "0", "-5", "fast", "5000/m", "inf", "NaN/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["", "1000", "1000@", "1000@0s", "@10s", "1000,@10s", "1000,x@10s"] {
            assert!(parse_ramp(text).is_err(), "{text}");
        }
        assert_eq!(parse_rate("max"), Ok(Rate::Max));
        assert_eq!(parse_rate("5000/s"), Ok(Rate::PerSecond(5000.0)));
        assert_eq!(parse_rate("0.5"), Ok(Rate::PerSecond(0.5)));
        let step = Duration::from_secs(10);
        assert_eq!(
            parse_ramp("1000, 2000,5000@10s"),
            Ok(Rate::Ramp { per_second: vec![1000.0, 2000.0, 5000.0], step })
        );
    }

    #[test]
    fn shares_beyond_one_are_refused() {
        let with = |malformed, late| FleetOptions {
            shares: Shares { malformed, late, ..Default::default() },
            ..Default::default()
        };
        assert!(with(0.6, 0.6).validate().is_err());
        assert!(with(-0.1, 0.0).validate().is_err());
        assert!(with(f64::NAN, 0.0).validate().is_err());
        assert!(with(0.5, 0.5).validate().is_ok());
        assert!(FleetOptions { vehicles: 0, ..Default::default() }.validate().is_err());
    }
}
