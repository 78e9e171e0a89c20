//! The hosts of the database: for each a pool, a circuit for reads and one for writes, its role, and how far it is behind.
//!
//! What the prober and the calls report is kept here and published in atomics, so that choosing a host takes no lock.
//! What follows from what was seen is decided in `roles` and `lag`, where a call goes in `route`. It dials nothing and
//! waits for nothing but news.
//!
//! A host that is away is not asked again until the prober, on a connection of its own, has seen it: its open circuits
//! are the memory of that.

mod board;
mod held;
mod lag;
mod roles;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_postgres::{Config, config::TargetSessionAttrs};

pub(super) use self::board::{ALARM_REPEAT, Reign};
use self::board::{Board, Standing};
pub(super) use self::held::{DAMAGED_HOLD, DISK_FULL_HOLD, Hold};
pub(super) use self::roles::{Fence, Role, Sighting};
use super::{
    classify::Circuit,
    config::DbConfig,
    dial::{self, HostTarget},
    lanes::Lanes,
    pool::Pool,
    reaper::ReaperHandle,
    route::{self, Bound, Candidate, HOSTS_MAX, Route, Tried},
};
use crate::{
    breaker::{Breaker, BreakerState},
    health::DatabasePart,
};

const NONE: usize = usize::MAX;
const UNKNOWN: i64 = i64::MIN;
/// The closed list of circuits: what metrics and logs call them.
const READS: [&str; HOSTS_MAX] =
    ["reads-1", "reads-2", "reads-3", "reads-4", "reads-5", "reads-6", "reads-7", "reads-8"];
const WRITES: [&str; HOSTS_MAX] =
    ["writes-1", "writes-2", "writes-3", "writes-4", "writes-5", "writes-6", "writes-7", "writes-8"];

/// One host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) pool: Pool,
    pub(super) lanes: Lanes,
    reads: Arc<Breaker>,
    writes: Arc<Breaker>,
    role: AtomicU8,
    /// Of a standby: the instant up to which it has everything, in microseconds after our start.
    as_of: AtomicI64,
    /// Somebody else may be the primary: not written to before the prober has seen it again, and all others.
    doubted: AtomicBool,
    /// It found its disk full or its data damaged: no writes up to here, in microseconds after our start.
    held_until: AtomicI64,
}

/// All hosts of one database.
#[derive(Debug)]
pub(super) struct Hosts {
    all: Vec<Host>,
    /// Standbys may be read from at all.
    standbys_serve: bool,
    /// And are, where a read says nothing itself.
    standbys_serve_all: bool,
    started: Instant,
    primary: AtomicUsize,
    board: Mutex<Board>,
    /// Counts what was learned, for who waits for a primary.
    news: watch::Sender<u64>,
    /// Counts the wishes that the prober look now.
    nudges: watch::Sender<u64>,
    database: watch::Sender<DatabasePart>,
}

impl Host {
    pub(super) fn circuit(&self, circuit: Circuit) -> &Arc<Breaker> {
        match circuit {
            Circuit::Reads => &self.reads,
            Circuit::Writes => &self.writes,
        }
    }

    pub(super) fn role(&self) -> Role {
        Role::from_u8(self.role.load(Ordering::Acquire))
    }

    /// It refused a write, led elsewhere, or was lost or started anew beside others, and not all were looked at since.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Acquire)
    }

    fn is(&self, circuit: Circuit, state: BreakerState, now: Instant) -> bool {
        self.circuit(circuit).state(now) == state
    }
}

impl Hosts {
    /// One pool and two closed circuits for each host of `target`.
    pub(super) fn new(target: &Config, config: &DbConfig, reaper: &ReaperHandle, now: Instant) -> Self {
        let targets = dial::single_hosts(target);
        let standbys_serve = target.get_target_session_attrs() != TargetSessionAttrs::ReadWrite;
        let count = targets.len();
        let circuit = |labels: &[&'static str], single: &'static str, index: usize| {
            let label = if count == 1 { Some(&single) } else { labels.get(index) };
            Breaker::new(label.copied().unwrap_or(single), config.breaker.clone(), now)
        };
        let all: Vec<Host> = targets
            .into_iter()
            .enumerate()
            .map(|(index, mut target)| {
                // The roles are our business: the driver would refuse the connection that asks.
                target.target_session_attrs(TargetSessionAttrs::Any);
                Host {
                    pool: Pool::new(
                        HostTarget { config: target, index },
                        &config.pool,
                        config.bulkhead.permits + 1,
                        reaper,
                    ),
                    lanes: Lanes::new(&config.pool, now),
                    reads: circuit(&READS, "reads", index),
                    writes: circuit(&WRITES, "writes", index),
                    role: AtomicU8::new(Role::Unknown.to_u8()),
                    as_of: AtomicI64::new(UNKNOWN),
                    doubted: AtomicBool::new(count > 1),
                    held_until: AtomicI64::new(UNKNOWN),
                }
            })
            .collect();
        Self {
            all,
            standbys_serve,
            standbys_serve_all: standbys_serve && !config.read.standby_staleness.is_zero(),
            started: now,
            primary: AtomicUsize::new(NONE),
            board: Mutex::new(Board::new(count, now)),
            news: watch::Sender::new(0),
            nudges: watch::Sender::new(0),
            database: watch::Sender::new(DatabasePart::Unknown),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Host> {
        self.all.iter()
    }

    pub(super) fn at(&self, host: usize) -> Option<&Host> {
        self.all.get(host)
    }

    /// The host that writes go to, or would go to if it were there; `None` while no host is the primary.
    pub(super) fn primary(&self) -> Option<usize> {
        match self.primary.load(Ordering::Acquire) {
            // Before the first probe; with one host there is no wrong choice.
            NONE if self.count() == 1 && self.at(0).is_some_and(|host| host.role() == Role::Unknown) => {
                Some(0)
            }
            NONE => None,
            host => Some(host),
        }
    }

    /// The primary, unless it just refused a write and was not looked at since.
    pub(super) fn trusted_primary(&self) -> Option<usize> {
        let is_trusted = |host: &Host| !host.is_doubted();
        self.primary().filter(|host| self.at(*host).is_some_and(is_trusted))
    }

    /// Where a read goes at `now`.
    pub(super) fn reader(&self, bound: Bound, tried: Tried, now: Instant) -> Option<Route> {
        // Nearly always: the primary is there.
        if let Some(primary) = self.primary().filter(|primary| !tried.has(*primary))
            && self.at(primary).is_some_and(|host| host.is(Circuit::Reads, BreakerState::Closed, now))
        {
            return Some(Route::Primary(primary));
        }
        let bound = if self.standbys_serve { bound } else { Bound::PrimaryOnly };
        let candidates = self.all.iter().map(|host| Candidate {
            role: host.role(),
            takes_reads: !host.is(Circuit::Reads, BreakerState::Open, now),
            lag: self.as_of(host).map(|as_of| now.saturating_duration_since(as_of)),
        });
        route::for_read(candidates, bound, tried)
    }

    /// The host's circuit rejects calls.
    pub(super) fn is_open(&self, host: usize, circuit: Circuit, now: Instant) -> bool {
        self.at(host).is_some_and(|host| host.is(circuit, BreakerState::Open, now))
    }

    fn as_of(&self, host: &Host) -> Option<Instant> {
        self.instant(host.as_of.load(Ordering::Acquire))
    }

    fn instant(&self, micros: i64) -> Option<Instant> {
        match micros {
            UNKNOWN => None,
            micros if micros < 0 => self.started.checked_sub(Duration::from_micros(micros.unsigned_abs())),
            micros => self.started.checked_add(Duration::from_micros(micros.unsigned_abs())),
        }
    }

    /// Who is the primary, as far as it is to be trusted.
    pub(super) fn reign(&self) -> Option<Reign> {
        let host = self.trusted_primary()?;
        let timeline = self.board().roles.last(host).and_then(|sighting| sighting.timeline);
        Some(Reign { host, timeline })
    }

    /// The circuit that speaks for the database: the primary's, or that of the first host.
    pub(super) fn main_circuit(&self, circuit: Circuit) -> Option<&Arc<Breaker>> {
        self.at(self.primary().unwrap_or(0)).map(|host| host.circuit(circuit))
    }

    /// The least time to the next trial of this circuit on any host that could take the call.
    pub(super) fn retry_after(&self, circuit: Circuit, now: Instant) -> Duration {
        let of = |host: &Host| host.circuit(circuit).retry_after(now);
        match self.primary().and_then(|host| self.at(host)) {
            Some(primary) => of(primary),
            None => self.all.iter().map(of).min().unwrap_or_default(),
        }
    }

    /// A host answered a question that was sent at `asked_at`. Answers what it was before and is now.
    pub(super) fn saw(
        &self,
        host: usize,
        sighting: Sighting,
        asked_at: Instant,
        now: Instant,
    ) -> (Role, Role) {
        let was = self.at(host).map_or(Role::Unknown, Host::role);
        let (turned, is_restart) = {
            let mut board = self.board();
            let is_restart = board.roles.last(host).is_some_and(|before| sighting.is_restart_of(&before));
            board.roles.saw(host, sighting);
            board.stands(host, Standing::Answers);
            if let Some(at) = board.asked_at.get_mut(host) {
                *at = Some(asked_at);
            }
            if board.roles.primary() == Some(host) {
                board.progress.primary_told(&sighting, asked_at);
            }
            let is_restart = is_restart && board.doubt(host, asked_at);
            (self.publish(&mut board, now), is_restart)
        };
        self.tell(turned);
        if is_restart {
            self.nudge();
        }
        (was, self.at(host).map_or(Role::Unknown, Host::role))
    }

    /// A host does not answer; `refuses` where it answers that it will not have us.
    pub(super) fn lost(&self, host: usize, refuses: bool, now: Instant) {
        let (turned, is_new) = {
            let mut board = self.board();
            board.roles.lost(host);
            let was = board.standing.get(host).copied();
            board.stands(host, if refuses { Standing::Refuses } else { Standing::Away });
            let is_new = was == Some(Standing::Answers) && board.doubt(host, now);
            (self.publish(&mut board, now), is_new)
        };
        self.tell(turned);
        if is_new {
            self.nudge();
        }
    }

    /// The host refused a write (25006) that it should have taken: its connections are led to another place than we
    /// believe, and the prober is to find out at once where the primary is.
    pub(super) fn refused_write(&self, index: usize, now: Instant) {
        if self.doubt(index, now)
            && let Some(host) = self.at(index)
        {
            host.pool.invalidate();
        }
    }

    /// A new connection led to another server than the prober's: it is to look again. Answers whether that is news.
    pub(super) fn doubt(&self, index: usize, now: Instant) -> bool {
        let Some(host) = self.at(index) else { return false };
        {
            let mut board = self.board();
            if host.doubted.swap(true, Ordering::AcqRel) {
                return false;
            }
            if let Some(at) = board.doubted_at.get_mut(index) {
                *at = Some(now);
            }
        }
        self.nudge();
        true
    }

    /// What a person must look at is said once in [`ALARM_REPEAT`], however many calls find it.
    pub(super) fn is_time_for_alarm(&self, now: Instant) -> bool {
        self.board().is_time_for_alarm(now)
    }

    /// Wishes that the prober look at all hosts now.
    pub(super) fn nudge(&self) {
        self.nudges.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(super) fn nudges(&self) -> watch::Receiver<u64> {
        self.nudges.subscribe()
    }

    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    pub(super) fn database(&self) -> &watch::Sender<DatabasePart> {
        &self.database
    }

    /// Whether a host answered its last probe.
    #[cfg(feature = "serde")]
    pub(super) fn answers(&self, host: usize) -> bool {
        self.board().roles.answers(host)
    }

    /// The first host that answered its last probe and is not fenced.
    pub(super) fn answering(&self) -> Option<usize> {
        let board = self.board();
        let is_fenced = |host: usize| matches!(board.roles.role(host), Role::Fenced(_));
        (0..self.count()).find(|host| board.roles.answers(*host) && !is_fenced(*host))
    }

    /// The first host that is not known to be one to keep away from.
    pub(super) fn not_fenced(&self) -> Option<usize> {
        self.all.iter().position(|host| !matches!(host.role(), Role::Fenced(_)))
    }

    /// What the host said last, and how far it is behind at `now`.
    pub(super) fn last(&self, host: usize, now: Instant) -> (Option<Sighting>, Option<Duration>) {
        let lag = self.at(host).and_then(|host| self.as_of(host));
        (self.board().roles.last(host), lag.map(|as_of| now.saturating_duration_since(as_of)))
    }

    /// Time at `now` since there was a primary that answered; `None` where there is one, or never was.
    pub(super) fn without_primary(&self, now: Instant) -> Option<Duration> {
        if self.trusted_primary().is_some() {
            return None;
        }
        self.board().primary_until.map(|until| now.saturating_duration_since(until))
    }

    /// From the board to the atomics. Answers a new primary, with its timeline.
    fn publish(&self, board: &mut Board, now: Instant) -> Option<(usize, Option<u32>)> {
        let before = self.primary.load(Ordering::Acquire);
        for (index, host) in self.all.iter().enumerate() {
            let role = board.roles.role(index);
            let as_of = match (role, board.roles.last(index), board.asked_at.get(index)) {
                (Role::Standby, Some(sighting), Some(Some(asked_at))) => {
                    board.progress.as_of(&sighting, *asked_at)
                }
                _ => None,
            };
            host.as_of.store(as_of.map_or(UNKNOWN, |as_of| self.micros(as_of)), Ordering::Release);
            host.role.store(role.to_u8(), Ordering::Release);
            // A single one that was started anew is no other than before.
            let started = |seen: Sighting| seen.started_us.filter(|_| self.count() > 1);
            let expected = board.roles.last(index).map(|seen| Sighting { started_us: started(seen), ..seen });
            host.pool.expect(role, expected);
            host.doubted.store(!board.is_cleared(index, now), Ordering::Release);
        }
        let primary = board.roles.primary();
        if primary.is_some_and(|host| board.roles.answers(host)) {
            board.primary_until = Some(now);
        }
        self.primary.store(primary.unwrap_or(NONE), Ordering::Release);
        let primary = primary.filter(|primary| before != *primary && self.count() > 1)?;
        Some((primary, board.roles.last(primary).and_then(|sighting| sighting.timeline)))
    }

    fn micros(&self, at: Instant) -> i64 {
        let micros = |duration: Duration| i64::try_from(duration.as_micros());
        match at.checked_duration_since(self.started) {
            Some(after) => micros(after).unwrap_or(UNKNOWN),
            None => micros(self.started.saturating_duration_since(at)).map_or(UNKNOWN, |before| -before),
        }
    }

    fn tell(&self, turned: Option<(usize, Option<u32>)>) {
        if let Some((primary, timeline)) = turned {
            tracing::info!(host = primary + 1, timeline, "writes go to this host");
        }
        let part = self.part();
        self.database.send_if_modified(|shown| std::mem::replace(shown, part) != part);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What the database as a whole can do: takes writes, answers reads truly or from a standby, or is away.
    fn part(&self) -> DatabasePart {
        let board = self.board();
        let hosts = 0..self.count();
        let roles =
            hosts.clone().filter(|host| board.roles.answers(*host)).map(|host| board.roles.role(host));
        if roles.clone().any(|role| role == Role::Primary) {
            return DatabasePart::Up;
        }
        if roles.clone().any(|role| role == Role::ReadOnly) {
            return DatabasePart::ReadOnly;
        }
        // Who must not be read from is no answer to reads, and a replica that has nothing else is not ready.
        if self.standbys_serve_all && roles.clone().any(|role| role == Role::Standby) {
            return DatabasePart::Standby;
        }
        // A host that was not asked yet may be the primary.
        if board.standing.contains(&Standing::NotAsked) {
            DatabasePart::Unknown
        } else if board.standing.contains(&Standing::Refuses) {
            DatabasePart::Refused
        } else {
            DatabasePart::Away
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
