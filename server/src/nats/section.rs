//! The settings of the publisher of events, and what makes sense of them. It reads no file and knows no broker.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

const EVERY_MIN: Duration = Duration::from_millis(10);
const EVERY_MAX: Duration = Duration::from_secs(60);
const BATCH_MAX: usize = 10_000;
const KEEP_FOR_MIN: Duration = Duration::from_secs(3_600);
const KEEP_FOR_MAX: Duration = Duration::from_secs(400 * 86_400);

/// Where and how events are published. The same at all replicas.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NatsSection {
    /// `nats://host:4222`, or `tls://` to insist on TLS; several with commas. Default empty: nothing is published.
    pub(crate) url: String,
    /// Who this is: a `.creds` file, or one line with an nkey's seed or with `user:password`. Read at each connection.
    /// Default none.
    pub(crate) credentials_file: Option<PathBuf>,
    /// Certificates to trust in the place of the system's, as PEM. Default none.
    pub(crate) ca_file: Option<PathBuf>,
    /// The stream that must take the events; somebody else makes it. Default `TODOS`.
    pub(crate) stream: String,
    /// Subjects are this and the kind: `todos.created`. Default `todos`.
    pub(crate) subject_prefix: String,
    /// How often the outbox is looked into while it is empty. Default 200 ms, 10 ms to 1 min.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) every: Duration,
    /// Events in one batch. Default 256, 10,000 at the most.
    pub(crate) batch: usize,
    /// Events that may wait; beyond, the oldest are given up. Default 1,000,000.
    pub(crate) keep_max: i64,
    /// How long events are kept for a publisher after the last one was seen. Default 7 days, 1 h to 400 days.
    #[serde(with = "ridethrough::duration_text")]
    pub(crate) keep_for: Duration,
}

impl Default for NatsSection {
    fn default() -> Self {
        Self {
            url: String::new(),
            credentials_file: None,
            ca_file: None,
            stream: "TODOS".to_owned(),
            subject_prefix: "todos".to_owned(),
            every: Duration::from_millis(200),
            batch: 256,
            keep_max: 1_000_000,
            keep_for: Duration::from_secs(7 * 86_400),
        }
    }
}

impl NatsSection {
    /// Whether anything is to be published.
    pub(crate) fn is_on(&self) -> bool {
        !self.url.trim().is_empty()
    }

    /// The addresses of the brokers.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|url| !url.is_empty())
    }

    /// # Errors
    /// One sentence that names the key, and quotes no URL.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !self.is_on() {
            return Ok(());
        }
        if !cfg!(feature = "nats") {
            return Err("nats.url is set, and this program was built without the feature nats".to_owned());
        }
        self.urls().try_for_each(sound)?;
        if self.ca_file.is_some() && !self.urls().all(|url| url.starts_with("tls://")) {
            return Err("nats.ca_file is set, so nats.url must begin with tls://".to_owned());
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if self.stream.is_empty() || !self.stream.bytes().all(is_name) {
            return Err("nats.stream must be letters, digits, - and _".to_owned());
        }
        let mut parts = self.subject_prefix.split('.');
        if !parts.all(|part| !part.is_empty() && part.bytes().all(is_name)) {
            return Err(
                "nats.subject_prefix must be words of letters, digits, - and _, with dots between".to_owned()
            );
        }
        if !(EVERY_MIN..=EVERY_MAX).contains(&self.every) {
            return Err("nats.every must be between 10ms and 1m".to_owned());
        }
        if !(1..=BATCH_MAX).contains(&self.batch) {
            return Err("nats.batch must be between 1 and 10000".to_owned());
        }
        if self.keep_max < 1 {
            return Err("nats.keep_max must be at least 1".to_owned());
        }
        if !(KEEP_FOR_MIN..=KEEP_FOR_MAX).contains(&self.keep_for) {
            return Err("nats.keep_for must be between 1h and 400d".to_owned());
        }
        Ok(())
    }
}

fn sound(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
    match rest {
        None => Err("nats.url must begin with nats:// or tls://".to_owned()),
        Some(rest) if rest.contains('@') => {
            Err("nats.url must hold no password: name a file in nats.credentials_file".to_owned())
        }
        Some(rest) if rest.is_empty() || rest.contains('/') => {
            Err("nats.url must be hosts with ports, and nothing after them".to_owned())
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> NatsSection {
        NatsSection { url: url.to_owned(), ..NatsSection::default() }
    }

    #[test]
    fn nothing_is_published_where_no_broker_is_named() {
        assert!(!NatsSection::default().is_on());
        assert_eq!(NatsSection::default().validate(), Ok(()));
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn a_program_without_the_feature_says_so() {
        assert!(with("nats://h:4222").validate().unwrap_err().contains("without the feature"));
    }

    #[cfg(feature = "nats")]
    #[test]
    fn wrong_values_name_their_key_and_no_password_is_quoted() {
        assert_eq!(with("nats://a:4222, nats://b:4222").validate(), Ok(()));
        for url in ["a:4222", "http://a", "nats://", "nats://u:canary@a", "nats://a:4222/x"] {
            let message = with(url).validate().unwrap_err();
            assert!(message.contains("nats.url") && !message.contains("canary"), "{message}");
        }
        let refused = |change: fn(&mut NatsSection)| {
            let mut section = with("tls://a:4222");
            change(&mut section);
            section.validate().unwrap_err()
        };
        assert!(refused(|section| section.stream = "a.b".to_owned()).contains("nats.stream"));
        assert!(refused(|section| section.subject_prefix = "a.*".to_owned()).contains("nats.subject_prefix"));
        assert!(
            refused(|section| section.subject_prefix = "a..b".to_owned()).contains("nats.subject_prefix")
        );
        assert!(refused(|section| section.every = Duration::ZERO).contains("nats.every"));
        assert!(refused(|section| section.batch = 0).contains("nats.batch"));
        assert!(refused(|section| section.keep_max = 0).contains("nats.keep_max"));
        assert!(refused(|section| section.keep_for = Duration::from_secs(1)).contains("nats.keep_for"));
        let insecure = NatsSection { ca_file: Some("ca.pem".into()), ..with("nats://a") };
        assert!(insecure.validate().unwrap_err().contains("nats.ca_file"));
    }
}
