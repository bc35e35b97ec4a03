//! The device in one vehicle: when it reports, and its messages as JSON text.

use crate::simulate::options::FleetOptions;
use crate::simulate::random::Random;
use crate::simulate::sent::Sent;
use crate::simulate::vehicle::{Measurement, Vehicle};
use std::fmt::Write;
use std::sync::Arc;

pub struct Device {
    pub id: Arc<str>,
    pub topic_kinematic: Arc<str>,
    pub topic_status: Arc<str>,
    /// A message held back to arrive out of order.
    pub held: Option<Sent>,
    fleet_id: String,
    vehicle: Vehicle,
    random: Random,
    /// Between two reports, on average.
    interval_us: i64,
    measured_until_us: i64,
    is_silent: bool,
}

/// One message as its device wrote it.
pub struct Report {
    pub json: String,
    pub at_us: i64,
    /// The latest instant it speaks of.
    pub event_time_us: i64,
    pub rows: u32,
}

/// The busiest vehicle reports this often; the one of rank r, r^ZIPF times as seldom, but at least once in ten minutes.
const INTERVAL_MIN_S: f64 = 4.0;
const INTERVAL_MAX_S: f64 = 600.0;
const ZIPF: f64 = 0.9;
const VEHICLES_PER_FLEET: u32 = 50;
const COMMANDS: [&str; 4] = ["lock_doors", "unlock_doors", "flash_lights", "report_now"];
const TROUBLE_CODES: [&str; 4] = ["P0300", "P0420", "P0171", "P0455"];

impl Device {
    pub fn new(number: u32, rank: u32, options: &FleetOptions) -> Self {
        let mut random = Random::new(options.seed, u64::from(number));
        let id = format!("v{number:05}");
        let interval_s = (INTERVAL_MIN_S * f64::from(rank).powf(ZIPF)).min(INTERVAL_MAX_S);
        Device {
            topic_kinematic: options.topic_kinematic.replace("{vehicle}", &id).into(),
            topic_status: options.topic_status.replace("{vehicle}", &id).into(),
            id: id.into(),
            held: None,
            fleet_id: format!("fleet-{}", number / VEHICLES_PER_FLEET),
            vehicle: Vehicle::new(&mut random),
            random,
            interval_us: milliseconds((interval_s * 1e6) as i64),
            measured_until_us: options.start_us,
            // The first report of a vehicle follows its ignition.
            is_silent: true,
        }
    }

    pub fn first_report_us(&mut self) -> i64 {
        self.measured_until_us + milliseconds(self.random.range(1_000_000, 1_000_000 + self.interval_us))
    }

    pub fn next_report_us(&mut self, at_us: i64) -> i64 {
        if self.is_silent {
            let until_us = at_us + milliseconds(self.random.range(300, 3_600) * 1_000_000);
            self.measured_until_us = until_us - 1_000_000;
            return until_us;
        }
        at_us + milliseconds(self.random.range(self.interval_us * 9 / 10, self.interval_us * 11 / 10))
    }

    /// Whether this is the first report after a silence; it is not silent any more.
    pub fn is_waking(&mut self) -> bool {
        std::mem::take(&mut self.is_silent)
    }

    /// About one report in 200 is the last before a silence of 5 to 60 minutes.
    pub fn goes_silent(&mut self) -> bool {
        self.is_silent = self.random.chance(0.005);
        if self.is_silent {
            self.vehicle.park();
        }
        self.is_silent
    }

    pub fn says_status(&mut self) -> bool {
        self.random.chance(0.04)
    }

    pub fn is_commanded(&mut self) -> bool {
        self.random.chance(0.01)
    }

    /// What was measured since the last bundle; `until_us` lies before `at_us` for one that comes late: the measurements
    /// of an earlier way near here.
    pub fn bundle(&mut self, at_us: i64, until_us: i64, id: &str) -> Report {
        let count = self.random.range(3, 13);
        let step_us = milliseconds((at_us - self.measured_until_us) / count).max(1_000);
        let first_us = until_us - step_us * (count - 1);
        let is_late = until_us < at_us;
        // A late bundle leaves the vehicle where it is.
        let mut earlier = self.vehicle.clone();
        let mut json = self.begin(id, 180 + 130 * count as usize);
        write(&mut json, format_args!(",\"fleet_id\":\"{}\",\"sent_at\":\"", self.fleet_id));
        write_instant(&mut json, at_us);
        json.push_str("\",\"measurements\":[");
        for place in 0..count {
            let vehicle = if is_late { &mut earlier } else { &mut self.vehicle };
            let measured = vehicle.drive(step_us as f64 / 1e6, first_us + place * step_us, &mut self.random);
            if place > 0 {
                json.push(',');
            }
            write_measurement(&mut json, &measured, self.random.chance(0.98));
        }
        json.push_str("]}");
        if !is_late {
            self.measured_until_us = at_us;
        }
        Report { json, at_us, event_time_us: until_us, rows: count as u32 }
    }

    pub fn ignition(&mut self, is_on: bool, at_us: i64, id: &str) -> Report {
        let mut json = self.begin(id, 160);
        json.push_str(",\"type\":\"ignition\"");
        self.finish(json, at_us, format_args!(",\"is_on\":{is_on}"))
    }

    pub fn status(&mut self, at_us: i64, id: &str) -> Report {
        let mut json = self.begin(id, 220);
        json.push_str(",\"type\":\"status\"");
        let battery = self.random.between(11.8, 14.4);
        let trouble =
            if self.random.chance(0.1) { format!("\"{}\"", self.random.pick(&TROUBLE_CODES)) } else { String::new() };
        let odometer = self.vehicle.odometer_km();
        self.finish(
            json,
            at_us,
            format_args!(",\"odometer_km\":{odometer:.1},\"battery_v\":{battery:.2},\"trouble_codes\":[{trouble}]"),
        )
    }

    /// A command to the vehicle and its answer about a second later.
    pub fn command(&mut self, at_us: i64, id: &str, answer_id: &str) -> (Report, Report) {
        let command = *self.random.pick(&COMMANDS);
        let mut json = self.begin(id, 200);
        json.push_str(",\"type\":\"control\"");
        let control = self.finish(json, at_us, format_args!(",\"command_id\":\"{id}\",\"command\":\"{command}\""));
        let ok = self.random.chance(0.95);
        let answer_us = at_us + milliseconds(self.random.range(300_000, 2_500_000));
        let mut json = self.begin(answer_id, 200);
        json.push_str(",\"type\":\"response\"");
        let response = self.finish(json, answer_us, format_args!(",\"command_id\":\"{id}\",\"ok\":{ok}"));
        (control, response)
    }

    fn begin(&self, id: &str, capacity: usize) -> String {
        let mut json = String::with_capacity(capacity);
        write(&mut json, format_args!("{{\"message_id\":\"{id}\",\"vehicle_id\":\"{}\"", self.id));
        json
    }

    fn finish(&self, mut json: String, at_us: i64, rest: std::fmt::Arguments) -> Report {
        json.push_str(",\"at\":\"");
        write_instant(&mut json, at_us);
        json.push('"');
        write(&mut json, rest);
        json.push('}');
        Report { json, at_us, event_time_us: at_us, rows: 0 }
    }
}

/// `has_fuel`: a sensor that does not answer leaves its field out.
fn write_measurement(json: &mut String, m: &Measurement, has_fuel: bool) {
    json.push_str("{\"t\":\"");
    write_instant(json, m.t_us);
    write(json, format_args!("\",\"lat\":{:.6},\"lon\":{:.6},\"speed\":{:.1}", m.lat, m.lon, m.speed));
    write(json, format_args!(",\"heading\":{:.1},\"rpm\":{}", m.heading, m.rpm));
    if has_fuel {
        write(json, format_args!(",\"fuel\":{:.2}", m.fuel));
    }
    json.push('}');
}

fn write(json: &mut String, text: std::fmt::Arguments) {
    json.write_fmt(text).expect("writing to a string cannot fail");
}

/// ISO-8601 with milliseconds. By hand, because a fleet writes a dozen of them per message and flat out means it.
fn write_instant(json: &mut String, t_us: i64) {
    let (days, day_us) = (t_us.div_euclid(86_400_000_000), t_us.rem_euclid(86_400_000_000));
    // Counted from 0000-03-01, years end with their leap day; 146_097 days are 400 years.
    let from_march = days + 719_468;
    let (era, day) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let (ms, s) = (day_us / 1_000 % 1_000, day_us / 1_000_000);
    write(json, format_args!("{year:04}-{month:02}-{day_of_month:02}T"));
    write(json, format_args!("{:02}:{:02}:{:02}.{ms:03}Z", s / 3_600, s / 60 % 60, s % 60));
}

/// Devices count in milliseconds: what stands in the text is the instant itself.
fn milliseconds(us: i64) -> i64 {
    us / 1_000 * 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_agree_with_chrono() {
        for t_us in (-62_135_596_800_000..253_402_300_800_000).step_by(7_777_777_777).map(|ms: i64| ms * 1_000) {
            let mut text = String::new();
            write_instant(&mut text, t_us);
            let want = chrono::DateTime::from_timestamp_micros(t_us).expect("an instant");
            assert_eq!(text, want.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        }
    }
}
