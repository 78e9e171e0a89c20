//! The command line: flags over environment over file. It opens nothing.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};
use ridethrough::service::{ConfigError, LogFormat, load};

use crate::{
    config::{Authority, Config, ConfigProblem},
    fallback::{self, TemplateProblem},
};

/// Reverse proxy that always shows people a useful page.
#[derive(Debug, Clone, Parser)]
#[command(name = "ridethrough-proxy", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Address of the main listener; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", global = true)]
    listen: Option<SocketAddr>,
    /// Address of the admin listener: metrics, state, probes [default: 127.0.0.1:9081]
    #[arg(long, value_name = "ADDRESS", global = true)]
    admin_listen: Option<SocketAddr>,
    /// A backend, such as http://127.0.0.1:3000; repeat for more
    #[arg(long = "backend", value_name = "URL", global = true)]
    backends: Vec<String>,
    /// Configuration file (TOML); every key is also `RIDETHROUGH_<SECTION>__<KEY>` in the environment
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Form of a log line on standard error: json or text
    #[arg(long, value_name = "FORMAT", global = true)]
    log_format: Option<LogFormat>,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Command {
    /// Check the configuration and say what is wrong with it
    CheckConfig,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Load(#[from] ConfigError),
    #[error(transparent)]
    Problem(#[from] ConfigProblem),
    #[error(transparent)]
    Template(#[from] TemplateProblem),
}

impl Cli {
    /// The configuration with everything put over it, and the backends it names.
    ///
    /// # Errors
    /// [`Unusable`] names the file and line, the variable or the key.
    pub(crate) fn configuration(
        &self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Config, Vec<Authority>), Unusable> {
        let mut config: Config = load(self.config.as_deref(), environment)?;
        let proxy = &mut config.proxy;
        proxy.listen = self.listen.unwrap_or(proxy.listen);
        proxy.admin_listen = self.admin_listen.unwrap_or(proxy.admin_listen);
        proxy.log_format = self.log_format.unwrap_or(proxy.log_format);
        if !self.backends.is_empty() {
            config.backends.urls.clone_from(&self.backends);
        }
        let backends = config.validate()?;
        fallback::check(&config.fallback)?;
        Ok((config, backends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment() {
        let cli = Cli::parse_from(["proxy", "--listen", "127.0.0.1:1", "--backend", "http://a:1"]);
        let environment = [
            ("RIDETHROUGH_PROXY__LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
            ("RIDETHROUGH_PROXY__ADMIN_LISTEN".to_owned(), "127.0.0.1:3".to_owned()),
            ("RIDETHROUGH_BACKENDS__URLS".to_owned(), "['http://b:1']".to_owned()),
        ];
        let (config, backends) = cli.configuration(environment).unwrap();
        assert_eq!((config.proxy.listen.port(), config.proxy.admin_listen.port()), (1, 3));
        assert_eq!(backends.len(), 1);
        assert_eq!(backends[0].host, "a");
    }

    #[test]
    fn the_flags_work_after_the_sub_command_too() {
        let cli = Cli::parse_from(["proxy", "check-config", "--backend", "https://a"]);
        assert!(matches!(cli.command, Some(Command::CheckConfig)));
        let error = cli.configuration([]).unwrap_err().to_string();
        assert!(error.contains("https"), "{error}");
    }
}
