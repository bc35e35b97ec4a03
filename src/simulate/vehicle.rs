//! One vehicle: where it is, how fast it goes, and what its sensors say. Speed, heading, rpm and fuel belong together.

use crate::simulate::random::Random;

/// What the device measures at one instant.
#[derive(Clone, Debug)]
pub struct Measurement {
    pub t_us: i64,
    pub lat: f64,
    pub lon: f64,
    /// km/h
    pub speed: f64,
    /// Degrees, 0 is north, clockwise.
    pub heading: f64,
    pub rpm: i32,
    /// Litres.
    pub fuel: f64,
}

#[derive(Clone, Debug)]
pub struct Vehicle {
    lat: f64,
    lon: f64,
    home: (f64, f64),
    speed: f64,
    heading: f64,
    /// What the road ahead allows: km/h, and for how many seconds more.
    limit: f64,
    limit_s: f64,
    fuel: f64,
    odometer_km: f64,
}

/// Where vehicles live: a few cities far enough apart that a map shows them.
const CITIES: [(f64, f64); 5] = [(52.52, 13.40), (48.14, 11.58), (50.94, 6.96), (53.55, 9.99), (51.05, 13.74)];
/// km/h of a stop, a side street, a street, a road and a motorway.
const LIMITS: [f64; 5] = [0.0, 30.0, 50.0, 80.0, 120.0];
/// Where each gear ends (km/h), and the revolutions per km/h in it.
const GEARS: [(f64, f64); 6] =
    [(15.0, 140.0), (30.0, 85.0), (50.0, 56.0), (75.0, 41.0), (100.0, 32.0), (f64::MAX, 25.0)];
const IDLE_RPM: f64 = 780.0;
const TANK_LITRES: f64 = 60.0;
/// Beyond this distance from home the next junction leads back.
const RANGE_KM: f64 = 60.0;
const KM_PER_DEGREE: f64 = 111.32;

impl Vehicle {
    pub fn new(random: &mut Random) -> Self {
        let (city_lat, city_lon) = *random.pick(&CITIES);
        let home = (city_lat + random.between(-0.1, 0.1), city_lon + random.between(-0.15, 0.15));
        Vehicle {
            lat: home.0,
            lon: home.1,
            home,
            speed: 0.0,
            heading: random.range(0, 4) as f64 * 90.0,
            limit: 50.0,
            limit_s: 0.0,
            fuel: random.between(15.0, TANK_LITRES),
            odometer_km: random.between(500.0, 200_000.0),
        }
    }

    pub fn odometer_km(&self) -> f64 {
        self.odometer_km
    }

    /// Stands still, engine off: where it was left is where it will be found.
    pub fn park(&mut self) {
        self.speed = 0.0;
        self.limit_s = 0.0;
    }

    /// Drives on for `dt_s` seconds and measures at `t_us`.
    pub fn drive(&mut self, dt_s: f64, t_us: i64, random: &mut Random) -> Measurement {
        self.limit_s -= dt_s;
        if self.limit_s <= 0.0 {
            self.junction(random);
        }
        // Comfortable acceleration and braking, in km/h per second.
        let change = (self.limit - self.speed).clamp(-9.0 * dt_s, 6.0 * dt_s);
        self.speed = (self.speed + change + random.between(-0.8, 0.8) * dt_s.min(1.0)).clamp(0.0, 140.0);
        if self.limit == 0.0 && self.speed < 2.0 {
            self.speed = 0.0;
        }
        if self.speed > 0.0 {
            self.heading = (self.heading + random.between(-1.5, 1.5)).rem_euclid(360.0);
        }
        let km = self.speed * dt_s / 3600.0;
        let (sin, cos) = self.heading.to_radians().sin_cos();
        self.lat += km * cos / KM_PER_DEGREE;
        self.lon += km * sin / (KM_PER_DEGREE * self.lat.to_radians().cos());
        self.odometer_km += km;
        // Idling costs about 0.8 l/h; driving about 7 l/100 km.
        self.fuel -= km * 0.07 + dt_s * 0.8 / 3600.0;
        if self.fuel < 4.0 {
            self.fuel = TANK_LITRES;
        }
        Measurement {
            t_us,
            lat: self.lat,
            lon: self.lon,
            speed: self.speed,
            heading: self.heading,
            rpm: self.rpm(random),
            fuel: self.fuel,
        }
    }

    fn junction(&mut self, random: &mut Random) {
        self.limit = *random.pick(&LIMITS);
        self.limit_s = if self.limit == 0.0 { random.between(5.0, 60.0) } else { random.between(20.0, 180.0) };
        let north_km = (self.home.0 - self.lat) * KM_PER_DEGREE;
        let east_km = (self.home.1 - self.lon) * KM_PER_DEGREE * self.lat.to_radians().cos();
        if north_km.hypot(east_km) > RANGE_KM {
            self.heading = east_km.atan2(north_km).to_degrees().rem_euclid(360.0);
        } else {
            // Mostly straight on; else a right or left turn.
            let turn = *random.pick(&[0.0, 0.0, 0.0, 90.0, -90.0]);
            self.heading = (self.heading + turn).rem_euclid(360.0);
        }
    }

    fn rpm(&self, random: &mut Random) -> i32 {
        let (_, per_kmh) = GEARS.iter().find(|(top, _)| self.speed < *top).expect("the last gear has no top");
        ((self.speed * per_kmh).max(IDLE_RPM) + random.between(-40.0, 40.0)) as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_day_on_the_road_stays_plausible() {
        for seed in 0..6 {
            let mut random = Random::new(seed, 1);
            let mut vehicle = Vehicle::new(&mut random);
            let start_km = vehicle.odometer_km();
            let mut before = vehicle.drive(1.0, 0, &mut random);
            for second in 1..43_200 {
                let now = vehicle.drive(1.0, second * 1_000_000, &mut random);
                let north = (now.lat - before.lat) * KM_PER_DEGREE;
                let east = (now.lon - before.lon) * KM_PER_DEGREE * now.lat.to_radians().cos();
                let driven = now.speed / 3600.0;
                assert!((north.hypot(east) - driven).abs() < 0.001, "seed {seed}: the way does not match the speed");
                assert!((now.speed - before.speed).abs() < 12.0, "seed {seed}: {before:?} {now:?}");
                assert!(
                    (0.0..=140.0).contains(&now.speed) && (0.0..360.0).contains(&now.heading),
                    "seed {seed}: {now:?}"
                );
                assert!((700..6_000).contains(&now.rpm) && (3.0..=60.0).contains(&now.fuel), "seed {seed}: {now:?}");
                assert!((44.0..58.0).contains(&now.lat) && (3.0..18.0).contains(&now.lon), "seed {seed}: {now:?}");
                before = now;
            }
            assert!(vehicle.odometer_km() > start_km + 50.0, "seed {seed}: it hardly moved");
        }
    }
}
