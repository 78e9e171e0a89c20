//! The configuration: its sections, what makes sense together, and how it is shown without its secrets. Where it comes
//! from (file, environment, flags) is the business of `cli`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use ridethrough::{
    cache::CacheConfig,
    db::DbConfig,
    health::ReadyPolicy,
    journal::{JournalConfig, WhenTooOld},
    service::{Limits, LogFormat, LogLevels},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_postgres::config::Host;

use crate::{
    cli::SPEAKERS,
    edges::{Bounds, RateSection},
    events::EventsSection,
    identity::{IdentityMode, IdentitySection},
    nats::NatsSection,
    routes::decode::BATCH_BYTES_MAX,
    traces::TracesSection,
};

/// Everything that can be set. As JSON it holds no secret.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Addresses and folder.
    pub(crate) server: ServerSection,
    /// The database path.
    pub(crate) database: DbConfig,
    /// The write journal.
    pub(crate) journal: JournalSection,
    /// How principals are told apart.
    pub(crate) identity: IdentitySection,
    /// What happened to todos, and how long that is known.
    pub(crate) events: EventsSection,
    /// Where they are published.
    pub(crate) nats: NatsSection,
    /// The read cache.
    pub(crate) cache: CacheConfig,
    /// When this replica counts as ready.
    pub(crate) ready: ReadyPolicy,
    /// Bounds of the main listener and of what is taken on, and the drain.
    pub(crate) limits: LimitsSection,
    /// The log.
    pub(crate) log: LogSection,
    /// Where the spans of requests are sent.
    pub(crate) traces: TracesSection,
}

/// Addresses and folder.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerSection {
    /// For users. Default 127.0.0.1:8081.
    pub(crate) listen: SocketAddr,
    /// For probes, metrics and state. Default 127.0.0.1:9091.
    pub(crate) admin_listen: SocketAddr,
    /// Folder of the journal; one server alone. Default `data` in the current folder.
    pub(crate) data_dir: PathBuf,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 9091)),
            data_dir: PathBuf::from("./data"),
        }
    }
}

/// Bounds of the journal; what each means stands at [`JournalConfig`].
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct JournalSection {
    /// Bytes of writes that wait. Default 256 MiB.
    pub(crate) bytes_max: u64,
    /// Writes that wait. Default 1,000,000.
    pub(crate) entries_max: u64,
    /// Percent of both that are kept for writes that matter. Default 5.
    pub(crate) reserve_percent: u8,
    /// Length of one file in bytes. Default 16 MiB.
    pub(crate) segment_bytes: u64,
    /// Appends that may wait for the disk. Default 4096.
    pub(crate) queue_max: usize,
    /// Age of the oldest write that waits, beyond which `when_too_old` applies. Default 24 h.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) age_max: Duration,
    /// `warn`, `refuse` or `set-aside`. Default warn.
    pub(crate) when_too_old: WhenTooOld,
    /// Writes that may be set aside. Default 100,000.
    pub(crate) aside_entries_max: u64,
    /// Their bytes. Default 16 MiB.
    pub(crate) aside_bytes_max: u64,
}

impl Default for JournalSection {
    fn default() -> Self {
        let JournalConfig {
            bytes_max,
            entries_max,
            reserve_percent,
            segment_bytes,
            queue_max,
            age_max,
            when_too_old,
            aside_entries_max,
            aside_bytes_max,
            ..
        } = JournalConfig::new("");
        Self {
            bytes_max,
            entries_max,
            reserve_percent,
            segment_bytes,
            queue_max,
            age_max,
            when_too_old,
            aside_entries_max,
            aside_bytes_max,
        }
    }
}

/// Bounds of the main listener and the drain, of which each stands at [`Limits`], and of what the service takes on.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsSection {
    /// Connections at once; more wait in the kernel's queue. Default 10,000.
    pub(crate) connections: usize,
    /// Connections at once from one address; more are closed at once. Default 5,000.
    pub(crate) connections_per_address: usize,
    /// Time for the head of a request. Default 10 s.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) head: Duration,
    /// How long a client may take nothing of an answer. Default 60 s.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) write_idle: Duration,
    /// Size of a request head in bytes. Default 32 KiB.
    pub(crate) head_bytes: usize,
    /// Headers in one request. Default 100.
    pub(crate) headers: usize,
    /// Default 5 s.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) drain_delay: Duration,
    /// Default 25 s.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) drain_in_flight: Duration,
    /// Bytes of path and query. Default 8 KiB.
    pub(crate) uri_bytes: usize,
    /// Time for the body of a request. Default 10 s, which is a second and more for the largest one on a slow line.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) body: Duration,
    /// Bytes of all bodies that are arriving or being worked on; more are refused. Default 32 MiB, eight of the largest.
    pub(crate) bodies_bytes: usize,
    /// Requests in flight, without probes; more are refused. Default 1,000.
    pub(crate) requests: usize,
    /// How often one principal may ask.
    pub(crate) rate: RateSection,
}

impl Default for LimitsSection {
    fn default() -> Self {
        let Limits {
            connections,
            connections_per_address,
            head,
            write_idle,
            head_bytes,
            headers,
            // HTTP/2 is not spoken here.
            streams: _,
            drain_delay,
            drain_in_flight,
        } = Limits::default();
        Self {
            connections,
            connections_per_address,
            head,
            write_idle,
            head_bytes,
            headers,
            drain_delay,
            drain_in_flight,
            uri_bytes: 8 * 1024,
            body: Duration::from_secs(10),
            bodies_bytes: 32 * 1024 * 1024,
            requests: 1_000,
            rate: RateSection::default(),
        }
    }
}

impl LimitsSection {
    /// The listener's part.
    pub(crate) fn listener(&self) -> Limits {
        Limits {
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            head: self.head,
            write_idle: self.write_idle,
            head_bytes: self.head_bytes,
            headers: self.headers,
            drain_delay: self.drain_delay,
            drain_in_flight: self.drain_in_flight,
            ..Limits::default()
        }
    }

    /// The part of what is taken on.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            requests: self.requests,
            uri_bytes: self.uri_bytes,
            body: self.body,
            bodies_bytes: self.bodies_bytes,
        }
    }

    /// Says what makes no sense: the field, and what it must be.
    fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        self.listener().validate()?;
        if self.requests == 0 {
            return Err(("requests", "must be 1 or more"));
        }
        if self.uri_bytes < 512 {
            return Err((
                "uri_bytes",
                "must be 512 or more: an address with a cursor and a range has nearly as many",
            ));
        }
        if self.body.is_zero() {
            return Err(("body", "must be longer than nothing"));
        }
        if !(BATCH_BYTES_MAX..=1024 * 1024 * 1024).contains(&self.bodies_bytes) {
            return Err((
                "bodies_bytes",
                "must be between 4194304, which one batch may have, and 1073741824",
            ));
        }
        Ok(())
    }
}

/// The log.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSection {
    /// Default text.
    pub(crate) format: LogFormat,
    /// A level, or targets with levels, such as `info,ridethrough::db=debug`. Default info.
    pub(crate) filter: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: "info".to_owned() }
    }
}

impl Config {
    /// The journal's settings, in its folder below the data folder.
    pub(crate) fn journal(&self) -> JournalConfig {
        let section = self.journal.clone();
        JournalConfig {
            bytes_max: section.bytes_max,
            entries_max: section.entries_max,
            reserve_percent: section.reserve_percent,
            segment_bytes: section.segment_bytes,
            queue_max: section.queue_max,
            age_max: section.age_max,
            when_too_old: section.when_too_old,
            aside_entries_max: section.aside_entries_max,
            aside_bytes_max: section.aside_bytes_max,
            ..JournalConfig::new(self.server.data_dir.join("journal"))
        }
    }

    /// The read cache's settings, with its snapshot in the data folder.
    pub(crate) fn cache(&self) -> CacheConfig {
        let mut cache = self.cache.clone();
        cache.snapshot.dir = Some(self.server.data_dir.clone());
        cache
    }

    /// The configuration for `/debug/config`: every key, and in the place of the database's URL what it says without its
    /// password.
    pub(crate) fn redacted(&self) -> Value {
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        let target = self.database.validate().map_or(Value::Null, |target| describe(&target));
        if let Some(database) = shown.get_mut("database").and_then(Value::as_object_mut) {
            database.insert("target".to_owned(), target);
        }
        shown
    }
}

/// Checks what the types cannot: that the values make sense, each and together.
///
/// # Errors
/// One sentence that names the key and quotes nothing of the database's URL, since a part of it is a password.
pub(crate) fn validate(config: &Config) -> Result<(), String> {
    if config.database.url.trim().is_empty() {
        return Err("no database: give --database-url, or set DATABASE_URL or database.url".to_owned());
    }
    config.database.validate().map_err(|error| error.to_string())?;
    config.journal().validate().map_err(|error| error.to_string())?;
    let server = &config.server;
    if server.listen.port() != 0 && server.listen == server.admin_listen {
        return Err(
            "server.listen and server.admin_listen are the same address; give each its own".to_owned()
        );
    }
    LogLevels::check(&config.log.filter, &SPEAKERS).map_err(|error| format!("log.filter: {error}"))?;
    config.traces.validate()?;
    config.identity.validate()?;
    config.events.validate()?;
    config.nats.validate()?;
    if config.identity.mode == IdentityMode::None && !server.listen.ip().to_canonical().is_loopback() {
        return Err(format!(
            "identity.mode is none, so that everybody who reaches {} is let in: set identity.mode to tokens, or give \
             server.listen a loopback address such as 127.0.0.1",
            server.listen
        ));
    }
    config.limits.validate().map_err(|(field, problem)| format!("limits.{field} {problem}"))
}

/// Hosts, ports, user and database: what an operator looks for, without the password.
fn describe(database: &tokio_postgres::Config) -> Value {
    let hosts: Vec<String> = database
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(folder) => folder.display().to_string(),
        })
        .collect();
    json!({
        "hosts": hosts,
        "ports": database.get_ports(),
        "user": database.get_user(),
        "database": database.get_dbname(),
        "password": database.get_password().map(|_| "redacted"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> Config {
        let mut config = Config::default();
        url.clone_into(&mut config.database.url);
        config
    }

    #[test]
    fn defaults_and_a_url_are_enough() {
        assert_eq!(validate(&with_url("postgresql://u:p@localhost:5432/todos")), Ok(()));
        assert_eq!(validate(&with_url("postgresql://u:p@first:5432,second:5433/todos")), Ok(()));
    }

    #[test]
    fn a_broken_url_is_refused_without_quoting_it() {
        for url in ["mysql://u:canary@h/d", "postgresql://u:canary@h:port/d", "canary"] {
            let message = validate(&with_url(url)).unwrap_err();
            assert!(message.contains("database.url") && !message.contains("canary"), "{url}: {message}");
        }
    }

    #[test]
    fn tls_that_cannot_be_had_is_refused_rather_than_ignored() {
        let message = validate(&with_url("postgresql://u@h/d?sslmode=verify-full")).unwrap_err();
        assert!(message.contains("sslrootcert"), "{message}");
    }

    #[test]
    fn the_shown_configuration_has_no_password() {
        let config = with_url("postgresql://user:canary@db.example:5433/todos?password=canary2");
        let shown = config.redacted().to_string();
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("db.example") && shown.contains("5433") && shown.contains("user"), "{shown}");
    }

    /// Keys were listed by hand once, and some were missing: `database.write.retention`, all of `database.probe`.
    #[test]
    fn every_key_is_shown_and_what_is_shown_can_be_read_back() {
        let mut config = with_url("postgresql://user@localhost/todos");
        config.database.write.retention = Duration::from_secs(7_200);
        config.limits.drain_delay = Duration::from_millis(1_500);
        let mut shown = config.redacted();
        assert_eq!(shown["database"]["write"]["retention"], "2h");
        assert_eq!(shown["database"]["probe"]["every"], "500ms");
        let database = shown["database"].as_object_mut().unwrap();
        assert_eq!(database.remove("target").unwrap()["user"], "user");
        let read: Config = serde_json::from_value(what_a_file_can_say(shown.clone())).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), shown);
    }

    /// Without what is not set.
    fn what_a_file_can_say(shown: Value) -> Value {
        match shown {
            Value::Object(keys) => keys
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, what_a_file_can_say(value)))
                .collect(),
            other => other,
        }
    }

    #[test]
    fn without_identity_only_this_machine_is_let_in() {
        let mut config = with_url("postgresql://u@localhost/d");
        for address in ["0.0.0.0:80", "[::]:80", "192.0.2.7:80", "[::ffff:192.0.2.7]:80"] {
            config.server.listen = address.parse().unwrap();
            let message = validate(&config).unwrap_err();
            assert!(message.contains("identity.mode") && message.contains(address), "{message}");
        }
        for address in ["127.0.0.1:80", "127.8.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            config.server.listen = address.parse().unwrap();
            assert_eq!(validate(&config), Ok(()), "{address}");
        }
        config.server.listen = "0.0.0.0:80".parse().unwrap();
        config.identity.mode = IdentityMode::Tokens;
        assert!(validate(&config).unwrap_err().contains("identity.tokens_file"));
        config.identity.tokens_file = Some(PathBuf::from("tokens"));
        assert_eq!(validate(&config), Ok(()));
        config.identity.guest = Some("two words".to_owned());
        assert!(validate(&config).unwrap_err().contains("identity.guest"));
    }

    #[test]
    fn wrong_values_name_their_section() {
        let mut config = with_url("postgresql://u@localhost/d");
        config.journal.entries_max = 0;
        assert!(validate(&config).unwrap_err().contains("entries_max"));
        let mut config = with_url("postgresql://u@localhost/d");
        config.server.admin_listen = config.server.listen;
        assert!(validate(&config).unwrap_err().contains("server.admin_listen"));
    }
}
