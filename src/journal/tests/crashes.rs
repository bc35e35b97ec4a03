//! Seeded: appends, trims and crashes in any order. Whatever the crash did beyond the last synced byte: everything synced is
//! there, in order, nothing is invented, positions are dense or a gap is on record.
//!
//! `PIPE_JOURNAL_SEEDS=5000` runs more of them, `PIPE_JOURNAL_SEED=17` one.

use super::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 60;

struct Model {
    /// What every reopening must show from `begin` on: (position, number of the entry).
    kept: Vec<(u64, u64)>,
    begin: u64,
    /// The next entry, never used before.
    fresh: u64,
}

impl Model {
    fn numbers(&mut self, random: &mut SmallRng, most: u64) -> Vec<u64> {
        let from = self.fresh;
        self.fresh += random.random_range(1..=most);
        (from..self.fresh).collect()
    }
}

fn options(random: &mut SmallRng) -> JournalOptions {
    let sync = match random.random_range(0..3) {
        0 => Sync::Interval(Duration::from_secs(3600)),
        1 => Sync::None,
        _ => Sync::Group,
    };
    JournalOptions {
        segment_bytes: random.random_range(200..4_000),
        recent_bytes_max: random.random_range(0..4_000),
        sync,
        ..small()
    }
}

/// All there is from `begin` on, with positions, read in random steps.
fn shown(journal: &Journal, begin: u64, random: &mut SmallRng) -> Vec<(u64, Entry)> {
    let (mut reader, mut all) = (journal.reader(Position(begin)), Vec::new());
    loop {
        let entries = reader.read(random.random_range(1..5_000), random.random_range(1..50)).expect("reads");
        if entries.is_empty() {
            return all;
        }
        let first = reader.position().0 - entries.len() as u64;
        all.extend((first..).zip(entries));
    }
}

/// The process and the machine die while `groups` groups are being written: what of them reaches the disk is chance.
fn crash(dir: &Path, model: &mut Model, end: u64, sync: Sync, random: &mut SmallRng) -> Vec<(u64, u64)> {
    // With a sync per group at most one is under way.
    let groups = if sync == Sync::Group { random.random_range(0..=1) } else { random.random_range(0..=4) };
    let (mut torn, mut position, mut chance) = (Vec::new(), end, Vec::new());
    for _ in 0..groups {
        let numbers = model.numbers(random, 5);
        let entries: Vec<Entry> = numbers.iter().copied().map(entry).collect();
        let mut group = Vec::new();
        group::encode(Tag::of(&chain()), Position(end), Position(position), entries.iter(), &mut group);
        chance.extend((position..).zip(numbers));
        position += entries.len() as u64;
        match random.random_range(0..4) {
            0 => {
                let at = random.random_range(0..group.len());
                group[at] ^= 1 << random.random_range(0..8);
            }
            1 => {
                let at = random.random_range(0..group.len());
                group[at..].fill(0);
            }
            _ => {}
        }
        torn.extend(group);
    }
    if random.random_bool(0.5) {
        torn.truncate(random.random_range(0..=torn.len()));
    }
    let last = segments(dir).pop().expect("there is a segment");
    let mut file = OpenOptions::new().append(true).open(last).expect("opens");
    file.write_all(&torn).expect("writes");
    chance
}

fn run(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let temporary = tempfile::tempdir().expect("a directory");
    let mut model = Model { kept: Vec::new(), begin: 0, fresh: 0 };
    for _ in 0..random.random_range(2..8) {
        let options = options(&mut random);
        let disk = Arc::new(Unsynced);
        let journal =
            Journal::open_on(disk, temporary.path(), &chain(), Position(model.begin), options).expect("opens");
        let hold = journal.hold(Position(model.begin));
        for _ in 0..random.random_range(0..15) {
            let end = journal.durable().borrow().to.0;
            if random.random_bool(0.2) {
                model.begin = random.random_range(model.begin..=end);
                hold.release(Position(model.begin)).expect("trims");
            } else {
                let numbers = model.numbers(&mut random, 8);
                append(&journal, numbers.iter().copied());
                model.kept.extend((end..).zip(numbers));
            }
        }
        model.kept.retain(|(at, _)| *at >= model.begin);
        let seen = shown(&journal, model.begin, &mut random);
        assert_eq!(seen, model.kept.iter().map(|(at, n)| (*at, entry(*n))).collect::<Vec<_>>(), "while it runs");
        let end = journal.durable().borrow().to.0;
        drop((journal, hold));

        let chance = crash(temporary.path(), &mut model, end, options.sync, &mut random);
        let journal = Journal::open(temporary.path(), &chain(), Position(model.begin), options).expect("opens again");
        let mut seen = shown(&journal, model.begin, &mut random).into_iter();
        for (at, n) in &model.kept {
            assert_eq!(seen.next(), Some((*at, entry(*n))), "synced, so it is there");
        }
        // What was not synced may be there or not, at its own place, and nothing else.
        for (at, found) in seen {
            let written = chance.iter().find(|(position, _)| *position == at).expect("nothing is invented");
            assert_eq!(found, entry(written.1));
            model.kept.push(*written);
        }
        let to = journal.durable().borrow().to.0;
        let after_last = model.kept.last().map_or(end, |(at, _)| at + 1).max(end);
        assert_eq!(to, after_last, "the next position follows");
    }
}

#[test]
fn whatever_a_crash_did_what_was_synced_is_there() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let seeds = match number("PIPE_JOURNAL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PIPE_JOURNAL_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let ran = std::panic::catch_unwind(|| run(seed));
        assert!(ran.is_ok(), "PIPE_JOURNAL_SEED={seed} shows it again");
    }
}
