//! When the next message may go out, as a pure function of what has been sent: it never drifts, and it catches up.

use crate::simulate::options::Rate;
use std::time::Duration;

/// Since the start. `sent` messages have gone out; the fleet's clock has moved by `fleet_us` since its first message.
pub fn due(rate: &Rate, sent: u64, fleet_us: i64) -> Duration {
    match rate {
        Rate::Max => Duration::ZERO,
        Rate::PerSecond(per_second) => Duration::from_secs_f64(sent as f64 / per_second),
        Rate::Ramp { per_second, step } => {
            let mut left = sent as f64;
            let mut elapsed = Duration::ZERO;
            for (i, rate) in per_second.iter().enumerate() {
                let in_step = rate * step.as_secs_f64();
                if left <= in_step || i + 1 == per_second.len() {
                    return elapsed + Duration::from_secs_f64(left / rate);
                }
                left -= in_step;
                elapsed += *step;
            }
            elapsed
        }
        Rate::Speed(factor) => Duration::from_secs_f64(fleet_us.max(0) as f64 / 1e6 / factor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_says_when() {
        let ramp = Rate::Ramp { per_second: vec![10.0, 100.0], step: Duration::from_secs(2) };
        let cases = [
            (Rate::Max, 1_000_000, 0),
            (Rate::PerSecond(100.0), 50, 500),
            (ramp.clone(), 10, 1_000),
            (ramp.clone(), 20, 2_000),
            (ramp.clone(), 120, 3_000),
            (ramp, 420, 6_000),
        ];
        for (rate, sent, ms) in cases {
            assert_eq!(due(&rate, sent, 0).as_millis(), ms, "{rate:?} after {sent}");
        }
        assert_eq!(due(&Rate::Speed(10.0), 0, 5_000_000).as_millis(), 500);
        assert_eq!(due(&Rate::Speed(10.0), 0, -5).as_millis(), 0);
    }
}
