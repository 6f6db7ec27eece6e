//! The one place that decides: try again, wait, or give up.
//!
//! Requests, tokens and blobs have a [`Patience`] each, which every wait for the network goes
//! through. It ends after so many failures or so much waiting without progress, whichever is first;
//! progress makes it new. What goes to one host shares a [`Line`]: a host that wants to be left
//! alone is left alone by all.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Error, fault::Fault};
use crate::config::Network;

/// Is told what goes wrong and is tried again, as it happens, in one line.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// The first wait; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait that nobody asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often a document is fetched again that came with another digest.
const REFETCHES: u32 = 2;
/// Tries at a mirror: there is somebody else to ask.
const TRIES_AT_MIRROR: u32 = 2;

/// What all requests to one host share.
pub(super) struct Line {
    /// `registry r:5000`
    pub(super) host: String,
    pub(super) limits: Network,
    pub(super) is_mirror: bool,
    pub(super) tell: Tell,
    /// Until when the host wants to be left alone.
    held: Mutex<Option<Instant>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(host: String, limits: &Network, is_mirror: bool) -> Line {
        let (limits, held) = (limits.clone(), Mutex::default());
        Line { host, limits, is_mirror, tell: Arc::new(|_| {}), held }
    }

    /// Patience for one thing that is wanted.
    pub(super) fn patience(&self) -> Patience<'_> {
        let limits = &self.limits;
        let (tries, budget, longest_hold) = match self.is_mirror {
            true => (TRIES_AT_MIRROR.min(limits.tries), limits.idle(), Duration::ZERO),
            false => (limits.tries, limits.budget(), limits.longest_hold()),
        };
        Patience {
            line: self,
            tries,
            budget,
            longest_hold,
            failed: 0,
            troubles: Vec::new(),
            refetched: 0,
            since: Instant::now(),
            spent: Duration::ZERO,
            before: Duration::ZERO,
            is_moving: false,
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Instant>> {
        // The value is replaced whole: a panic elsewhere cannot leave it half made.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody through before `until`.
    fn hold(&self, until: Instant) {
        let mut held = self.held();
        *held = Some(held.map_or(until, |before| before.max(until)));
    }
}

/// How much longer one thing is tried for, and what went wrong so far.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    line: &'a Line,
    tries: u32,
    budget: Duration,
    longest_hold: Duration,
    /// Failures since the last progress, and which.
    failed: u32,
    troubles: Vec<(String, u32)>,
    /// Documents that came with another digest.
    refetched: u32,
    since: Instant,
    /// Time waited, less what the bytes that came would have taken at the minimum rate. Time in
    /// which the caller did something else, or the host wanted to be left alone, is nobody's fault.
    spent: Duration,
    /// Of that, what was spent before this try.
    before: Duration,
    /// Whether bytes have come in this try.
    is_moving: bool,
}

impl Patience<'_> {
    /// Waits while the host wants to be left alone.
    pub(super) async fn turn(&self) {
        loop {
            let held = *self.line.held();
            let Some(until) = held.filter(|until| *until > Instant::now()) else { return };
            sleep_until(until).await;
        }
    }

    /// Waits for the other end, but not longer than patience lasts.
    pub(super) async fn wait<T>(
        &mut self,
        answer: impl Future<Output = reqwest::Result<T>>,
    ) -> Result<T, Fault> {
        let (idle, left) = (self.line.limits.idle(), self.budget.saturating_sub(self.spent));
        let limit = idle.min(left);
        let started = Instant::now();
        let answer = timeout(limit, answer).await;
        self.spent += started.elapsed();
        match answer {
            Ok(answer) => answer.map_err(Fault::from),
            Err(_) if self.is_moving && left < idle => Err(Fault::slow(self.line.limits.min_rate)),
            Err(_) => Err(Fault::silence()),
        }
    }

    /// Notes bytes that came. Only those that are `new` are progress; others are at least a sign of
    /// life.
    pub(super) fn came(&mut self, bytes: usize, new: bool) {
        self.spent = match self.line.limits.min_rate {
            0 => Duration::ZERO,
            rate => self.spent.saturating_sub(Duration::from_secs_f64(bytes as f64 / rate as f64)),
        };
        self.before = self.before.min(self.spent);
        self.is_moving = true;
        if new {
            self.failed = 0;
            if self.spent.is_zero() {
                self.troubles.clear();
                self.since = Instant::now();
            }
        }
    }

    /// Fails where bytes come too slowly for too long (SECURITY R25).
    pub(super) fn check_rate(&self) -> Result<(), Fault> {
        let limits = &self.line.limits;
        match limits.min_rate > 0 && self.spent - self.before >= limits.window() {
            true => Err(Fault::slow(limits.min_rate)),
            false => Ok(()),
        }
    }

    /// Waits before the next try; or returns the error, if no try can help or enough were made.
    pub(super) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let is_passing = match error {
            // A cache on the way may have a bad copy for a moment.
            Error::Digest { .. } => {
                self.refetched += 1;
                self.refetched <= REFETCHES
            }
            _ => error.is_passing(),
        };
        match is_passing {
            true => self.pause(error).await,
            false => Err(error),
        }
    }

    /// [`Patience::again`] after an error that the caller knows to be worth another try.
    pub(super) async fn pause(&mut self, error: Error) -> Result<(), Error> {
        self.failed += 1;
        let brief = error.brief();
        match self.troubles.iter_mut().find(|(known, _)| *known == brief) {
            Some((_, times)) => *times += 1,
            None => self.troubles.push((brief, 1)),
        }
        let asked = error.retry_after();
        let wait = backoff(self.failed);
        let cost = if asked.is_some() { Duration::ZERO } else { wait };
        if self.failed >= self.tries
            || self.spent + cost >= self.budget
            || asked.is_some_and(|asked| asked > self.longest_hold)
        {
            return Err(self.give_up(error));
        }
        // Who was told the same on other nodes is not to come back at the same moment.
        let hold = asked.map(|asked| (asked + asked.mul_f64(0.1 * chance())).max(wait));
        let told = seconds(hold.unwrap_or(wait));
        let what = error.brief_of(&self.line.host);
        (self.line.tell)(&format!("{what}; trying again in {told}"));
        match hold {
            Some(hold) => {
                self.line.hold(Instant::now() + hold);
                self.turn().await;
            }
            None => {
                self.spent += cost;
                sleep(wait).await;
            }
        }
        (self.before, self.is_moving) = (self.spent, false);
        Ok(())
    }

    fn give_up(&mut self, last: Error) -> Error {
        let tries = self.troubles.iter().map(|(_, times)| times).sum();
        if tries == 1 {
            return last;
        }
        let history = History {
            tries,
            time: self.since.elapsed(),
            troubles: std::mem::take(&mut self.troubles),
        };
        Error::GaveUp { history, last: last.into() }
    }
}

/// What was tried in vain: `gave up after 5 tries in 31 s`.
#[derive(Debug)]
pub struct History {
    tries: u32,
    time: Duration,
    troubles: Vec<(String, u32)>,
}

impl History {
    /// Whether it was not the same each time.
    pub(super) fn is_varied(&self) -> bool {
        self.troubles.len() > 1
    }

    /// What went wrong, and how often: `3 x connection refused, 2 x answered 502 Bad Gateway`.
    pub(super) fn troubles(&self) -> String {
        let count = |(trouble, times): &(String, u32)| match self.is_varied() {
            true => format!("{times} x {trouble}"),
            false => trouble.clone(),
        };
        self.troubles.iter().map(count).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gave up after {} tries in {}", self.tries, seconds(self.time))
    }
}

/// Doubles with each failure, and spreads by a half to both sides: many nodes start at the same
/// moment.
fn backoff(failed: u32) -> Duration {
    let wait = FIRST_WAIT * 2u32.pow(failed.clamp(1, 10) - 1);
    wait.min(LONGEST_WAIT).mul_f64(0.5 + chance())
}

/// A random number from 0 to 1. The standard library's hashers are keyed by the system's entropy.
pub(crate) fn chance() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        short if short < 9.95 => format!("{short:.1} s"),
        long => format!("{} s", long.ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_never_the_same() {
        let mean = |failed| {
            let waits: Vec<_> = (0..200).map(|_| backoff(failed).as_secs_f64()).collect();
            let wanted = (0.5 * f64::from(2u32.pow(failed - 1))).min(10.0);
            assert!(waits.iter().all(|w| *w >= wanted / 2.0 && *w <= wanted * 1.5), "{waits:?}");
            assert!(waits.iter().any(|w| *w != waits[0]), "no jitter");
            waits.iter().sum::<f64>() / 200.0
        };
        assert!(mean(1) < mean(3) && mean(3) < mean(5) && mean(5) < mean(8));
    }

    #[test]
    fn a_history_counts_what_is_alike() {
        let history = |troubles: &[(&str, u32)]| History {
            tries: 5,
            time: Duration::from_secs(31),
            troubles: troubles.iter().map(|(text, n)| ((*text).to_owned(), *n)).collect(),
        };
        let alike = history(&[("connection refused", 5)]);
        assert_eq!(alike.to_string(), "gave up after 5 tries in 31 s");
        assert_eq!(alike.troubles(), "connection refused");
        let varied = history(&[("connection refused", 3), ("answered 503 Service Unavailable", 2)]);
        assert_eq!(
            varied.troubles(),
            "3 x connection refused, 2 x answered 503 Service Unavailable"
        );
    }

    #[test]
    fn bytes_are_worth_the_time_that_they_take_at_the_minimum_rate() {
        let network = Network { min_rate: 1000, min_rate_window: 60, ..Network::default() };
        let line = Line::new("registry r".into(), &network, false);
        let mut patience = line.patience();
        (patience.failed, patience.spent) = (3, Duration::from_secs(59));
        patience.came(20_000, false);
        assert_eq!((patience.failed, patience.spent.as_secs()), (3, 39), "no news is no progress");
        patience.came(20_000, true);
        assert_eq!((patience.failed, patience.spent.as_secs()), (0, 19));
        patience.came(1 << 20, true);
        assert!(patience.spent.is_zero() && patience.check_rate().is_ok());
        // A burst now and then does not help whoever trickles.
        patience.spent = Duration::from_secs(61);
        patience.came(999, true);
        assert!(patience.check_rate().is_err());
    }
}
