//! The settings of the database path, with units, defaults and reasons. It validates; it opens nothing.

use std::{fmt, time::Duration};

use super::{
    connector::Connecting,
    route::HOSTS_MAX,
    tls::{Tls, TlsMode, Wanted, without_tls_parameters},
};
use crate::{backoff::Backoff, breaker::BreakerConfig, budget::RetryBudgetConfig, bulkhead::BulkheadConfig};

/// Everything about one database. Tables of a configuration file map onto its fields.
///
/// As JSON it is everything but the URL, a part of which is a password.
#[derive(Clone, PartialEq, Default)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct DbConfig {
    /// Where it is: a `postgres://` URL or key-value text, with up to 8 hosts: a primary and its standbys, in any order.
    /// With `target_session_attrs=read-write` standbys are not read from. Required.
    #[cfg_attr(feature = "serde", serde(skip_serializing))]
    pub url: String,
    /// Connections.
    pub pool: PoolConfig,
    /// Reads.
    pub read: ReadConfig,
    /// Writes.
    pub write: WriteConfig,
    /// When to stop asking.
    pub breaker: BreakerConfig,
    /// Calls in progress; the pool has one connection more than permits, for replay.
    pub bulkhead: BulkheadConfig,
    /// How many retries the traffic earns.
    pub budget: RetryBudgetConfig,
    /// How long to wait between attempts.
    pub backoff: Backoff,
    /// The background probe.
    pub probe: ProbeConfig,
    /// Tell other replicas what each committed write changed ([`Commands::tags`](super::Commands::tags)), and hear it from
    /// them, by PostgreSQL's `NOTIFY` and `LISTEN`. Default `false`: a transaction that notifies holds a lock of the whole
    /// server while it commits, so that such commits reach the disk one by one. Worth it where kept answers are served
    /// unasked ([`ReadPolicy::fresh_for`](crate::cache::ReadPolicy)) by several replicas and writes are few.
    pub notices: bool,
    /// Whether the service makes its tables by itself. The library carries this word and the next for the service, so that
    /// all about one database stands in one section; it does nothing with them. Default [`Migrate::Auto`].
    pub migrate: Migrate,
    /// What the service thinks of being a superuser there. Default [`Superuser::Warn`].
    pub superuser: Superuser,
}

/// Without the URL, which holds a password.
impl fmt::Debug for DbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            url: _,
            pool,
            read,
            write,
            breaker,
            bulkhead,
            budget,
            backoff,
            probe,
            notices,
            migrate,
            superuser,
        } = self;
        f.debug_struct("DbConfig")
            .field("pool", pool)
            .field("read", read)
            .field("write", write)
            .field("breaker", breaker)
            .field("bulkhead", bulkhead)
            .field("budget", budget)
            .field("backoff", backoff)
            .field("probe", probe)
            .field("notices", notices)
            .field("migrate", migrate)
            .field("superuser", superuser)
            .finish_non_exhaustive()
    }
}

/// Whether a service makes its tables by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Migrate {
    /// It does, as soon as it sees its database.
    #[default]
    Auto,
    /// It only looks: somebody else makes them, with more rights.
    Never,
}

/// What a service thinks of being a superuser of its database server, where no rule would hold it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Superuser {
    /// It does not use such a database.
    Refuse,
    /// It says so in its log, once.
    #[default]
    Warn,
    /// Nothing.
    Allow,
}

/// Connections and what the server is told about them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct PoolConfig {
    /// Bound on making a connection, name lookup, authentication and session settings included. Default 3 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub connect: Duration,
    /// Connections made at once. Default 2: at the end of an outage the pool fills gently, because each new session costs
    /// the server a process and both sides the key derivation of the password.
    pub dials: usize,
    /// `statement_timeout` of the sessions: the server gives up by itself. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub statement: Duration,
    /// `lock_timeout` of the sessions. Default 800 ms: shorter than an attempt, so that a lock held by others is told apart
    /// from a server that does not answer, and does not open the breaker.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub lock: Duration,
    /// `idle_in_transaction_session_timeout` of the sessions: bounds how long a transaction of a process that hangs
    /// can hold its locks. Default 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub idle_in_transaction: Duration,
    /// A connection is replaced after 80 to 90 % of this. Default 30 min.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub lifetime: Duration,
    /// A connection that nobody used for half to all of this is closed. Default 10 min.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub idle: Duration,
    /// A connection that nobody used for this long must answer before it is used again. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub check_after: Duration,
    /// Lanes: connections to the primary that short reads share ([`Query::is_short`](super::Query::is_short)), several
    /// questions at once on each; they come on top of the pool's, and are opened where such reads are asked. Default 2;
    /// 0 switches them off, and so does a pooler.
    pub lanes: usize,
    /// Questions on one lane at a time; further ones take a connection of the pool. Default 32: one that turns out slow
    /// keeps no more than these waiting, and them for some ten milliseconds.
    pub lane_depth: usize,
    /// What stands between us and the server. Default none. Behind a pooler nothing is asked of the session: its limits
    /// go with each transaction, statements have no name, and a call that is given up is not cancelled at the server:
    /// its connection is closed instead. `LISTEN` would be lost and is not used.
    pub pooler: Pooler,
    /// What makes the streams of bytes. Default the network.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub connector: Connecting,
    /// How connections are secured; [`Db::new`](super::Db::new) sets it as the URL says.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub tls: Tls,
}

/// What stands between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "lowercase"))]
pub enum Pooler {
    /// Nothing.
    #[default]
    None,
    /// PgBouncer in transaction mode: sessions are shared, so nothing is set on them, and a cancel request may not find
    /// its way.
    PgBouncer,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            dials: 2,
            statement: Duration::from_secs(5),
            lock: Duration::from_millis(800),
            idle_in_transaction: Duration::from_secs(10),
            lifetime: Duration::from_secs(30 * 60),
            idle: Duration::from_secs(10 * 60),
            check_after: Duration::from_millis(500),
            lanes: 2,
            lane_depth: 32,
            pooler: Pooler::None,
            connector: Connecting::default(),
            tls: Tls::default(),
        }
    }
}

/// How long a read may take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct ReadConfig {
    /// For the whole call, retries included. Default 2 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub deadline: Duration,
    /// For one attempt; after it a stale answer is served where there is one. Default 750 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub attempt: Duration,
    /// Attempts at the most, the first included. Default 3.
    pub attempts: u32,
    /// How far a standby may be behind to answer where the primary is slow or failed, for reads that say nothing
    /// themselves ([`Query::max_staleness`](super::Query::max_staleness)). Default 5 s: about what a person takes for
    /// "just now". While no primary takes reads at all, an older standby serves too, labelled with its age. 0 switches
    /// reads from standbys off.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub standby_staleness: Duration,
}

impl Default for ReadConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(2),
            attempt: Duration::from_millis(750),
            attempts: 3,
            standby_staleness: Duration::from_secs(5),
        }
    }
}

/// How long a write may take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct WriteConfig {
    /// For the whole call, retries and journal included. Default 4 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub deadline: Duration,
    /// For one attempt; after it the write goes to the journal. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub attempt: Duration,
    /// Attempts at the most, the first included. Default 3.
    pub attempts: u32,
    /// How long the outcome of a key can be asked for, counted from its end; then its row is removed, by and by. Default 7
    /// days; 1 hour to 10 years. A journaled write that waited for almost this long is not applied any more, because
    /// nobody could tell then whether it was: it becomes a dead letter, for an operator to retry or discard.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub retention: Duration,
}

impl Default for WriteConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(4),
            attempt: Duration::from_secs(1),
            attempts: 3,
            retention: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

/// The background probe on its own connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
pub struct ProbeConfig {
    /// Time between probes while the database answers. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub every: Duration,
    /// Bound on one probe. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub timeout: Duration,
    /// The first pause after a failed probe; grows with jitter. Default 100 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub away_first: Duration,
    /// No pause while away is longer: the most that recovery can go unnoticed. Default 500 ms.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub away_max: Duration,
    /// A probe connection older than this is replaced by a new one, since a server can serve old sessions and take no
    /// new ones. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::duration_text"))]
    pub reconnect: Duration,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            away_first: Duration::from_millis(100),
            away_max: Duration::from_millis(500),
            reconnect: Duration::from_secs(5),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("database.{field} {problem}")]
pub struct ConfigInvalid {
    /// The field, as in the configuration file.
    pub field: &'static str,
    /// What is wrong and what would be right; never the value of a secret.
    pub problem: String,
}

impl DbConfig {
    /// Checks what types cannot, and reads the URL.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self) -> Result<tokio_postgres::Config, ConfigInvalid> {
        let invalid = |field, problem: &str| Err(ConfigInvalid { field, problem: problem.to_owned() });
        // PostgreSQL reads its limits in whole milliseconds: less switches them off, and more than an int is refused.
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(24 * 3_600));
        let durations = [
            ("pool.connect", self.pool.connect),
            ("pool.statement", self.pool.statement),
            ("pool.lock", self.pool.lock),
            ("pool.idle_in_transaction", self.pool.idle_in_transaction),
            ("read.deadline", self.read.deadline),
            ("read.attempt", self.read.attempt),
            ("write.deadline", self.write.deadline),
            ("write.attempt", self.write.attempt),
            ("pool.lifetime", self.pool.lifetime),
            ("pool.idle", self.pool.idle),
            ("pool.check_after", self.pool.check_after),
            ("probe.every", self.probe.every),
            ("probe.timeout", self.probe.timeout),
            ("probe.away_first", self.probe.away_first),
            ("probe.away_max", self.probe.away_max),
            ("budget.window", self.budget.window),
        ];
        if let Some((field, _)) = durations.iter().find(|(_, limit)| !(least..=most).contains(limit)) {
            return invalid(field, "must be between 1ms and 24h");
        }
        if self.read.standby_staleness > most {
            return invalid("read.standby_staleness", "must be at most 24h");
        }
        self.validate_numbers()?;
        self.parsed_url()
    }

    fn validate_numbers(&self) -> Result<(), ConfigInvalid> {
        let invalid = |field, problem: &str| Err(ConfigInvalid { field, problem: problem.to_owned() });
        if self.write.attempt >= self.write.deadline {
            return invalid(
                "write.attempt",
                "must be shorter than write.deadline, which the journal needs too",
            );
        }
        let (hour, decade) = (Duration::from_secs(3_600), Duration::from_secs(10 * 365 * 24 * 3_600));
        if !(hour..=decade).contains(&self.write.retention) {
            return invalid("write.retention", "must be between 1h and 87600h");
        }
        if self.pool.lock >= self.write.attempt {
            return invalid(
                "pool.lock",
                "must be shorter than write.attempt, to tell a lock from a dead server",
            );
        }
        if !(1..=1_000).contains(&self.bulkhead.permits) {
            return invalid("bulkhead.permits", "must be 1 to 1000");
        }
        if !(1..=1_000).contains(&self.bulkhead.permits_min) {
            return invalid("bulkhead.permits_min", "must be 1 to 1000");
        }
        if !(1.1..=100.0).contains(&self.bulkhead.latency_tolerance) {
            return invalid("bulkhead.latency_tolerance", "must be between 1.1 and 100");
        }
        if !(1..=1_000).contains(&self.pool.dials) {
            return invalid("pool.dials", "must be 1 to 1000");
        }
        if self.pool.lanes > 100 {
            return invalid("pool.lanes", "must be at most 100; 0 switches lanes off");
        }
        if !(1..=1_000).contains(&self.pool.lane_depth) {
            return invalid("pool.lane_depth", "must be 1 to 1000");
        }
        if !(0.0..=1.0).contains(&self.breaker.failure_ratio) {
            return invalid("breaker.failure_ratio", "must be between 0.0 and 1.0");
        }
        if !(0.0..=1.0).contains(&self.budget.ratio) {
            return invalid("budget.ratio", "must be between 0.0 and 1.0");
        }
        if !(0.0..=1e6).contains(&self.budget.floor_per_second) {
            return invalid("budget.floor_per_second", "must be between 0 and 1000000");
        }
        Ok(())
    }

    fn parsed_url(&self) -> Result<tokio_postgres::Config, ConfigInvalid> {
        use tokio_postgres::config::SslMode;
        let invalid = |problem: &str| ConfigInvalid { field: "url", problem: problem.to_owned() };
        if self.url.trim().is_empty() {
            return Err(invalid("is missing: give a URL such as postgres://user:password@host:5432/name"));
        }
        let (url, wanted) = self.split_url()?;
        // The parser's own message can hold parts of the URL, and so of the password.
        let mut parsed: tokio_postgres::Config = url
            .parse()
            .map_err(|_| invalid("is no PostgreSQL URL; expected postgres://user:password@host:5432/name"))?;
        let hosts = parsed.get_hosts().len().max(parsed.get_hostaddrs().len());
        if hosts == 0 {
            return Err(invalid("names no host"));
        }
        if hosts > HOSTS_MAX {
            return Err(invalid("names more than 8 hosts"));
        }
        if !matches!(parsed.get_ports().len(), 0 | 1) && parsed.get_ports().len() != hosts {
            return Err(invalid("must have one port for all hosts, or one for each"));
        }
        // It was taken out; where the driver still found one, the two read the URL differently, and the wish would be lost.
        if parsed.get_ssl_mode() != SslMode::Prefer {
            return Err(invalid("has an sslmode where it cannot be read"));
        }
        parsed.ssl_mode(match wanted.mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        self.tls().map(|_| parsed)
    }

    /// How connections are to be secured, as the URL says: `sslmode` and `sslrootcert`.
    pub(super) fn tls(&self) -> Result<Tls, ConfigInvalid> {
        let (_, wanted) = self.split_url()?;
        if self.pool.tls.is_set() {
            return Ok(self.pool.tls.clone());
        }
        Tls::wanted(&wanted).map_err(|problem| ConfigInvalid { field: "url", problem })
    }

    fn split_url(&self) -> Result<(String, Wanted), ConfigInvalid> {
        without_tls_parameters(&self.url).map_err(|problem| ConfigInvalid { field: "url", problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_url(url: &str) -> DbConfig {
        DbConfig { url: url.to_owned(), ..DbConfig::default() }
    }

    #[test]
    fn several_hosts_are_allowed() {
        let config = of_url("postgres://app:secret@one:5432,two:5433/todos?target_session_attrs=read-write");
        assert_eq!(config.validate().unwrap().get_hosts().len(), 2);
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_it() {
        for url in [
            "",
            "postgres://",
            "nonsense",
            "postgres://app:sesame@:port/x",
            "postgres://h/x?sslmode=verify-full",
        ] {
            let refusal = of_url(url).validate().unwrap_err();
            assert_eq!(refusal.field, "url", "{url}");
            assert!(!refusal.to_string().contains("sesame"), "{refusal}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let mut config = of_url("postgres://app@localhost/todos");
        config.bulkhead.permits = 0;
        assert_eq!(config.validate().unwrap_err().field, "bulkhead.permits");
        config.bulkhead.permits = 1;
        config.pool.lane_depth = 0;
        assert_eq!(config.validate().unwrap_err().field, "pool.lane_depth");
        config.pool.lane_depth = 1;
        config.pool.lanes = usize::MAX;
        assert_eq!(config.validate().unwrap_err().field, "pool.lanes");
        config.pool.lanes = 0;
        config.write.attempt = Duration::ZERO;
        assert_eq!(config.validate().unwrap_err().field, "write.attempt");
        config.write.attempt = config.write.deadline;
        assert_eq!(config.validate().unwrap_err().field, "write.attempt");
        config.write.attempt = config.pool.lock;
        assert_eq!(config.validate().unwrap_err().field, "pool.lock");
    }

    /// Each of these was accepted: no pause between probes, no limit at the server, endless retries.
    #[test]
    fn settings_that_switch_a_bound_off_are_refused() {
        let of = |change: &dyn Fn(&mut DbConfig)| {
            let mut config = of_url("postgres://app@localhost/todos");
            change(&mut config);
            config.validate().unwrap_err().field
        };
        assert_eq!(of(&|config| config.probe.away_max = Duration::ZERO), "probe.away_max");
        assert_eq!(of(&|config| config.pool.statement = Duration::from_micros(10)), "pool.statement");
        assert_eq!(of(&|config| config.pool.statement = Duration::from_secs(1 << 40)), "pool.statement");
        assert_eq!(of(&|config| config.budget.floor_per_second = f64::INFINITY), "budget.floor_per_second");
        assert_eq!(of(&|config| config.budget.floor_per_second = f64::NAN), "budget.floor_per_second");
        assert_eq!(of(&|config| config.read.standby_staleness = Duration::MAX), "read.standby_staleness");
        assert_eq!(of(&|config| config.url = "host=a,b,c,d,e,f,g,h,i user=a".to_owned()), "url");
        assert_eq!(of(&|config| config.url = "host=h,i,j port=1,2 user=a".to_owned()), "url");
    }
}
