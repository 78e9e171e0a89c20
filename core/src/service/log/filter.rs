//! Which lines are written: a level, or targets with levels, read strictly. Whose lines may be written at all is the
//! program's choice and no operator's: what other crates quote in their lines nobody here has looked at.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The longest filter in bytes.
pub(super) const BYTES_MAX: usize = 1024;
/// The library's own lines are always among those that may be written.
const LIBRARY: &str = "ridethrough";
/// Of what a filter does not name.
const USUAL: LevelFilter = LevelFilter::INFO;

/// A filter that cannot be used. Its text quotes the piece that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It is longer than 1024 bytes.
    #[error("a log filter has at most {BYTES_MAX} bytes")]
    TooLong,
    /// A piece of it is neither a level nor a target with a level.
    #[error(
        "`{piece}` is neither a level (off, error, warn, info, debug, trace) nor a target with one, such as {LIBRARY}::db=debug"
    )]
    NotUnderstood {
        /// The piece.
        piece: String,
    },
    /// It gives two levels for all that it does not name.
    #[error("`{piece}` is the second level for everything")]
    SecondLevel {
        /// The piece.
        piece: String,
    },
    /// It names a crate whose lines are never written.
    #[error("lines of `{target}` are never written; those of {speakers} are")]
    NotWritten {
        /// What it names.
        target: String,
        /// Whose lines are.
        speakers: String,
    },
}

/// Reads `text`; everything but the lines of the library and of `speakers` is left out.
pub(super) fn parse(text: &str, speakers: &[&str]) -> Result<Targets, FilterError> {
    if text.len() > BYTES_MAX {
        return Err(FilterError::TooLong);
    }
    let (mut usual, mut special) = (None, Vec::new());
    for piece in text.split(',').map(str::trim) {
        let not_understood = || FilterError::NotUnderstood { piece: piece.to_owned() };
        match piece.split_once('=') {
            None => {
                let level = level(piece).ok_or_else(not_understood)?;
                if usual.replace(level).is_some() {
                    return Err(FilterError::SecondLevel { piece: piece.to_owned() });
                }
            }
            Some((target, word)) => {
                let level = level(word).filter(|_| is_target(target)).ok_or_else(not_understood)?;
                if !all(speakers).any(|speaker| is_within(target, speaker)) {
                    let speakers = all(speakers).collect::<Vec<_>>().join(", ");
                    return Err(FilterError::NotWritten { target: target.to_owned(), speakers });
                }
                special.push((target.to_owned(), level));
            }
        }
    }
    let usual = usual.unwrap_or(USUAL);
    let spoken = all(speakers).map(|speaker| (speaker.to_owned(), usual));
    Ok(Targets::new().with_default(LevelFilter::OFF).with_targets(spoken).with_targets(special))
}

fn all<'s>(speakers: &'s [&'s str]) -> impl Iterator<Item = &'s str> {
    std::iter::once(LIBRARY).chain(speakers.iter().copied())
}

fn is_within(target: &str, speaker: &str) -> bool {
    target.strip_prefix(speaker).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_target(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:.-".contains(&byte))
}

/// The six words alone: the parser of `tracing` also takes numbers.
fn level(word: &str) -> Option<LevelFilter> {
    Some(match word.to_ascii_lowercase().as_str() {
        "off" => LevelFilter::OFF,
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    const SPEAKERS: [&str; 1] = ["service"];

    fn writes(filter: &str, target: &str, level: Level) -> bool {
        parse(filter, &SPEAKERS).unwrap().would_enable(target, &level)
    }

    #[test]
    fn a_level_is_for_all_that_is_not_named() {
        assert!(writes("debug", "ridethrough::db", Level::DEBUG) && writes("debug", "service", Level::DEBUG));
        let one = "warn,ridethrough::db=trace";
        assert!(writes(one, "ridethrough::db::pool", Level::TRACE));
        assert!(!writes(one, "ridethrough::mode", Level::INFO) && writes(one, "service::x", Level::WARN));
        let without = "service=off";
        assert!(writes(without, "ridethrough", Level::INFO) && !writes(without, "ridethrough", Level::DEBUG));
        assert!(!writes(without, "service::x", Level::ERROR));
    }

    /// The driver logs statements with their values at `debug`, and its pool the driver's errors as warnings.
    #[test]
    fn nobody_elses_lines_are_ever_written() {
        for foreign in ["tokio_postgres::query", "hyper::proto", "deadpool.postgres", "rustls", ""] {
            assert!(!writes("trace", foreign, Level::ERROR), "{foreign}");
        }
        let error = parse("info,tokio_postgres=trace", &SPEAKERS).unwrap_err();
        assert!(error.to_string().contains("ridethrough, service are"), "{error}");
        assert!(parse("services=info", &SPEAKERS).is_err(), "another crate that begins alike");
    }

    #[test]
    fn a_slip_of_the_pen_is_refused_and_not_taken_for_a_target() {
        let long = format!("{}info", " ".repeat(BYTES_MAX));
        for wrong in [
            "",
            "inof",
            "info,",
            "info,debug",
            "service",
            "service=",
            "=info",
            "service=3",
            "[s{a=b}]=info",
            &long,
        ] {
            assert!(parse(wrong, &SPEAKERS).is_err(), "{wrong}");
        }
        assert!(parse(" Info , service::app=DEBUG ", &SPEAKERS).is_ok());
    }
}
