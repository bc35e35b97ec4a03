//! The seeded fleet: an endless iterator of messages in the order in which they are sent.
//!
//! Same options, same bytes. The fleet has a clock of its own that starts at `start_us` and moves from message to
//! message; the wall clock only paces the output. Vehicles report bundles of measurements, go silent, come back, and
//! differ in activity by Zipf's law. `Shares` decides what goes wrong, and every message says what was done to it.

use crate::simulate::device::{Device, Report};
use crate::simulate::malformed::malformed;
use crate::simulate::options::{FleetOptions, Shares};
use crate::simulate::random::Random;
use crate::simulate::sent::{Class, Kind, Sent, Stream};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

pub struct Fleet {
    options: FleetOptions,
    devices: Vec<Device>,
    agenda: BinaryHeap<Reverse<Appointment>>,
    /// Decides classes; vehicles have streams of their own, so that shares do not change how anyone drives.
    random: Random,
    appointments: u64,
    messages: u64,
}

/// Something that happens at an instant of the fleet's clock; `number` keeps equal instants in order.
struct Appointment {
    at_us: i64,
    number: u64,
    what: What,
}

enum What {
    /// The device with this index reports.
    Report(usize),
    Send(Box<Sent>),
}

impl Fleet {
    pub fn new(options: FleetOptions) -> Self {
        let mut random = Random::new(options.seed, u64::MAX);
        let mut ranks: Vec<u32> = (1..=options.vehicles).collect();
        for i in (1..ranks.len()).rev() {
            ranks.swap(i, random.range(0, i as i64 + 1) as usize);
        }
        let devices = ranks.iter().enumerate().map(|(i, rank)| Device::new(i as u32, *rank, &options)).collect();
        let mut fleet = Fleet { devices, agenda: BinaryHeap::new(), random, appointments: 0, messages: 0, options };
        for i in 0..fleet.devices.len() {
            let at_us = fleet.devices[i].first_report_us();
            fleet.schedule(at_us, What::Report(i));
        }
        fleet
    }

    fn schedule(&mut self, at_us: i64, what: What) {
        self.appointments += 1;
        self.agenda.push(Reverse(Appointment { at_us, number: self.appointments, what }));
    }

    fn next_id(&mut self) -> String {
        self.messages += 1;
        format!("{}-{}", self.options.seed, self.messages)
    }

    /// One device reports: its bundle now, and what else it has to say within the next seconds.
    fn report(&mut self, index: usize, at_us: i64) {
        let Shares { malformed, late, out_of_order, .. } = self.options.shares;
        let dice = self.random.unit();
        let class = if dice < malformed {
            Class::Malformed
        } else if dice < malformed + late {
            Class::Late
        } else if dice < malformed + late + out_of_order && self.devices[index].held.is_none() {
            Class::OutOfOrder
        } else {
            Class::Good
        };
        if self.devices[index].is_waking() {
            let id = self.next_id();
            let ignition = self.devices[index].ignition(true, at_us, &id);
            self.send(index, Kind::Ignition, ignition, id);
        }
        let id = self.next_id();
        let bundle = match class {
            Class::Late => {
                let lag_us = self.random.range(600, 3_600) * 1_000_000;
                self.devices[index].bundle(at_us, at_us - lag_us, &id)
            }
            _ => self.devices[index].bundle(at_us, at_us, &id),
        };
        let sent = self.sent(index, Kind::Kinematic, class, bundle, id);
        if class == Class::OutOfOrder {
            // Held back until this vehicle's next good message has gone out; one at a time.
            self.devices[index].held = Some(sent);
        } else {
            self.put(at_us, sent);
            if class == Class::Good
                && let Some(held) = self.devices[index].held.take()
            {
                self.schedule(at_us + 1_000, What::Send(Box::new(held)));
            }
        }
        self.chatter(index, at_us);
        let next_us = self.devices[index].next_report_us(at_us);
        self.schedule(next_us, What::Report(index));
    }

    /// Status, commands and their answers, and the engine being switched off.
    fn chatter(&mut self, index: usize, at_us: i64) {
        if self.devices[index].says_status() {
            let id = self.next_id();
            let status = self.devices[index].status(at_us + 200_000, &id);
            self.send(index, Kind::Status, status, id);
        }
        if self.devices[index].is_commanded() {
            let (command_id, answer_id) = (self.next_id(), self.next_id());
            let (control, response) = self.devices[index].command(at_us + 300_000, &command_id, &answer_id);
            self.send(index, Kind::Control, control, command_id);
            self.send(index, Kind::Response, response, answer_id);
        }
        if self.devices[index].goes_silent() {
            let id = self.next_id();
            let ignition = self.devices[index].ignition(false, at_us + 500_000, &id);
            self.send(index, Kind::Ignition, ignition, id);
        }
    }

    /// A message beside the kinematics, good or (ignition alone: every schema of the fleet declares it) malformed.
    fn send(&mut self, index: usize, kind: Kind, report: Report, id: String) {
        let broken = kind == Kind::Ignition && self.random.chance(self.options.shares.malformed);
        let class = if broken { Class::Malformed } else { Class::Good };
        let at_us = report.at_us;
        let sent = self.sent(index, kind, class, report, id);
        self.put(at_us, sent);
    }

    fn sent(&mut self, index: usize, kind: Kind, class: Class, report: Report, id: String) -> Sent {
        let is_malformed = class == Class::Malformed;
        let payload =
            if is_malformed { malformed(&report.json, &mut self.random).into() } else { Bytes::from(report.json) };
        let device = &self.devices[index];
        Sent {
            kind,
            class,
            topic: if kind == Kind::Kinematic { device.topic_kinematic.clone() } else { device.topic_status.clone() },
            stream: if kind == Kind::Kinematic { Stream::Kinematic } else { Stream::Status },
            key: device.id.clone(),
            payload,
            event_time_us: report.event_time_us,
            due_us: report.at_us,
            message_id: Arc::from(id),
            rows: if is_malformed { 0 } else { report.rows },
        }
    }

    /// Puts a message on the agenda, and maybe its duplicate.
    fn put(&mut self, at_us: i64, sent: Sent) {
        if sent.class == Class::Good && self.random.chance(self.options.shares.duplicates) {
            let again_us = at_us + self.random.range(50_000, 30_000_000);
            let copy = Sent { class: Class::Duplicate, due_us: again_us, ..sent.clone() };
            self.schedule(again_us, What::Send(Box::new(copy)));
        }
        self.schedule(at_us, What::Send(Box::new(sent)));
    }
}

impl Iterator for Fleet {
    type Item = Sent;

    /// Never `None`: take as many as you want.
    fn next(&mut self) -> Option<Sent> {
        loop {
            let Reverse(Appointment { at_us, what, .. }) = self.agenda.pop()?;
            match what {
                What::Report(index) => self.report(index, at_us),
                What::Send(sent) => return Some(Sent { due_us: at_us, ..*sent }),
            }
        }
    }
}

impl Ord for Appointment {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl PartialOrd for Appointment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Appointment {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Appointment {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn options() -> FleetOptions {
        let shares = Shares { malformed: 0.02, duplicates: 0.03, late: 0.02, out_of_order: 0.05 };
        FleetOptions { seed: 7, vehicles: 200, shares, ..Default::default() }
    }

    fn count(sent: &[Sent], class: Class) -> f64 {
        sent.iter().filter(|s| s.class == class).count() as f64 / sent.len() as f64
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
        let bytes = |seed| -> Vec<Sent> { Fleet::new(FleetOptions { seed, ..options() }).take(5_000).collect() };
        let (a, b, c) = (bytes(7), bytes(7), bytes(8));
        assert!(a.iter().zip(&b).all(|(a, b)| a.payload == b.payload && a.topic == b.topic && a.class == b.class));
        assert!(a.iter().zip(&c).any(|(a, c)| a.payload != c.payload));
    }

    #[test]
    fn shares_are_kept_and_everything_else_is_good_json() {
        let sent: Vec<Sent> = Fleet::new(options()).take(50_000).collect();
        for (class, share) in
            [(Class::Malformed, 0.02), (Class::Duplicate, 0.03), (Class::Late, 0.02), (Class::OutOfOrder, 0.05)]
        {
            assert!((count(&sent, class) - share).abs() < share * 0.25, "{class:?}: {}", count(&sent, class));
        }
        for s in sent.iter().filter(|s| s.class != Class::Malformed) {
            let value: serde_json::Value = serde_json::from_slice(&s.payload).expect("JSON");
            assert_eq!(value["message_id"], s.message_id.as_ref());
            assert_eq!(value["vehicle_id"], s.key.as_ref());
            if s.kind == Kind::Kinematic {
                assert_eq!(value["measurements"].as_array().map(Vec::len), Some(s.rows as usize));
            }
        }
        for kind in [Kind::Kinematic, Kind::Ignition, Kind::Status, Kind::Control, Kind::Response] {
            assert!(sent.iter().any(|s| s.kind == kind), "{kind:?} is missing");
        }
    }

    #[test]
    fn classes_are_what_they_say() {
        let mut newest: HashMap<Arc<str>, i64> = HashMap::new();
        let mut good: HashMap<Arc<str>, Bytes> = HashMap::new();
        let mut ids = HashSet::new();
        let mut clock = i64::MIN;
        for s in Fleet::new(options()).take(50_000) {
            assert!(s.due_us >= clock, "the fleet's clock ran backwards");
            clock = s.due_us;
            assert!(s.class == Class::Duplicate || ids.insert(s.message_id.clone()), "{} twice", s.message_id);
            match s.class {
                Class::Duplicate => assert_eq!(good[&s.message_id], s.payload),
                Class::OutOfOrder => assert!(newest[&s.key] > s.event_time_us, "{s:?}"),
                Class::Late => assert!(s.due_us - s.event_time_us >= 600_000_000),
                Class::Malformed => assert_eq!(s.rows, 0),
                Class::Good => {
                    good.insert(s.message_id.clone(), s.payload.clone());
                    if s.kind == Kind::Kinematic {
                        let newest = newest.entry(s.key.clone()).or_insert(i64::MIN);
                        assert!(s.event_time_us > *newest, "a good message must be in order");
                        *newest = s.event_time_us;
                    }
                }
            }
        }
    }

    #[test]
    fn activity_is_skewed_and_silent_vehicles_come_back() {
        let sent: Vec<Sent> = Fleet::new(options()).take(50_000).collect();
        let mut per_vehicle: HashMap<&str, (usize, bool, bool)> = HashMap::new();
        for s in &sent {
            let vehicle = per_vehicle.entry(&s.key).or_default();
            vehicle.0 += 1;
            let text = String::from_utf8_lossy(&s.payload);
            vehicle.1 |= text.contains("\"is_on\":false");
            vehicle.2 |= vehicle.1 && text.contains("\"is_on\":true");
        }
        let mut counts: Vec<usize> = per_vehicle.values().map(|v| v.0).collect();
        counts.sort_unstable();
        assert_eq!(counts.len(), 200, "every vehicle speaks");
        assert!(counts[199] > 10 * counts[100], "the busiest {} and the median {}", counts[199], counts[100]);
        assert!(per_vehicle.values().any(|v| v.2), "nobody came back");
    }
}
