//! Runs of the simulation: many seeds, one seed twice, and bugs put in on purpose.

use crate::engine::simulation::planted::{self, Bug};
use crate::engine::simulation::run::run;
use std::time::Instant;

/// About twenty seconds unoptimised on one core. More: PIPE_SIM_SEEDS; one of them again: PIPE_SIM_SEED.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number, not \"{text}\"")))
}

#[test]
fn seeds() {
    if let Some(seed) = number("PIPE_SIM_SEED") {
        match run(seed) {
            Ok(story) => return println!("{story:?}"),
            Err(failure) => panic!("{failure}"),
        }
    }
    let (seeds, begin) = (number("PIPE_SIM_SEEDS").unwrap_or(SEEDS), Instant::now());
    let first = number("PIPE_SIM_FIRST").unwrap_or(0);
    let (mut turns, mut lives, mut crashes, mut records) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        match run(seed) {
            Ok(story) => {
                turns += story.turns;
                lives += story.lives;
                crashes += story.crashes;
                records += story.records;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    println!(
        "{seeds} seeds: {turns} turns, {lives} processes, {crashes} crashes, {records} records in {:?}",
        begin.elapsed()
    );
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..20 {
        let (one, two) = (run(seed), run(seed));
        match (one, two) {
            (Ok(one), Ok(two)) => assert_eq!(one, two, "seed {seed}"),
            (Err(failure), _) | (_, Err(failure)) => panic!("{failure}"),
        }
    }
}

/// Seeds within which a planted bug must be found.
const FOUND_WITHIN: u64 = 100;

#[track_caller]
fn is_found(bug: Bug) {
    planted::plant(Some(bug));
    let found = (0..FOUND_WITHIN).find_map(|seed| run(seed).err());
    planted::plant(None);
    let failure = found.unwrap_or_else(|| panic!("{bug:?} went unnoticed in {FOUND_WITHIN} seeds"));
    println!("{bug:?} is found by seed {}: {}", failure.seed, failure.why);
}

#[test]
fn every_planted_bug_is_found() {
    for bug in planted::ALL {
        is_found(bug);
    }
}
