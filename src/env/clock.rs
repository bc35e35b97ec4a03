//! Wall clock and waiting as values that can be handed around and replaced.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds UTC. Never used for safety, only for stamps, idleness and intervals.
#[derive(Clone)]
pub enum Clock {
    System,
    /// Stands still until moved; for tests and simulation.
    Manual(Arc<ManualClock>),
}

impl Clock {
    pub fn now_us(&self) -> i64 {
        match self {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).expect("the system clock is after 1970").as_micros() as i64
            }
            Clock::Manual(clock) => clock.now_us(),
        }
    }

    pub async fn sleep(&self, duration: Duration) {
        match self {
            Clock::System => tokio::time::sleep(duration).await,
            Clock::Manual(clock) => clock.sleep(duration).await,
        }
    }
}

/// Time that somebody moves. Sleepers are woken in the order of their deadlines, equal ones in the order of asking, so
/// that one history of moves gives one history of wakes.
#[derive(Default)]
pub struct ManualClock {
    /// A std mutex: nothing awaits while it is held. Guards the time and who waits for it.
    timeline: Mutex<Timeline>,
}

#[derive(Default)]
struct Timeline {
    now_us: i64,
    asked: u64,
    /// By deadline and order of asking.
    sleepers: BTreeMap<(i64, u64), Waker>,
}

impl ManualClock {
    pub fn starting_at(now_us: i64) -> Arc<Self> {
        Arc::new(ManualClock { timeline: Mutex::new(Timeline { now_us, ..Timeline::default() }) })
    }

    pub fn now_us(&self) -> i64 {
        self.timeline.lock().expect("no holder panics").now_us
    }

    /// The first deadline that somebody sleeps until.
    pub fn next_deadline_us(&self) -> Option<i64> {
        self.timeline.lock().expect("no holder panics").sleepers.keys().next().map(|(at, _)| *at)
    }

    /// Moves on (never back) and wakes whose time has come.
    pub fn advance_to(&self, now_us: i64) {
        let mut timeline = self.timeline.lock().expect("no holder panics");
        timeline.now_us = timeline.now_us.max(now_us);
        let now_us = timeline.now_us;
        let later = timeline.sleepers.split_off(&(now_us, u64::MAX));
        let due = std::mem::replace(&mut timeline.sleepers, later);
        drop(timeline);
        due.into_values().for_each(Waker::wake);
    }

    fn sleep(self: &Arc<Self>, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let mut timeline = self.timeline.lock().expect("no holder panics");
        timeline.asked += 1;
        let deadline = (timeline.now_us.saturating_add(duration.as_micros() as i64), timeline.asked);
        drop(timeline);
        Sleep { clock: self.clone(), deadline }
    }
}

struct Sleep {
    clock: Arc<ManualClock>,
    deadline: (i64, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut timeline = self.clock.timeline.lock().expect("no holder panics");
        if timeline.now_us >= self.deadline.0 {
            return Poll::Ready(());
        }
        timeline.sleepers.insert(self.deadline, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.timeline.lock().expect("no holder panics").sleepers.remove(&self.deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_manual_clock_wakes_when_it_is_moved_and_forgets_who_gave_up() {
        let manual = ManualClock::starting_at(1_000);
        let clock = Clock::Manual(manual.clone());
        let mut first = Box::pin(clock.sleep(Duration::from_micros(500)));
        let mut given_up = Box::pin(clock.sleep(Duration::from_micros(100)));
        assert!((&mut first).now_or_never().is_none() && (&mut given_up).now_or_never().is_none());
        assert_eq!(manual.next_deadline_us(), Some(1_100));
        drop(given_up);
        assert_eq!(manual.next_deadline_us(), Some(1_500));
        manual.advance_to(1_499);
        assert!((&mut first).now_or_never().is_none());
        manual.advance_to(1_500);
        assert!((&mut first).now_or_never().is_some());
        assert_eq!((clock.now_us(), manual.next_deadline_us()), (1_500, None));
        manual.advance_to(7);
        assert_eq!(clock.now_us(), 1_500, "time does not run backwards");
    }
}
