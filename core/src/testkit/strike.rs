//! How faults strike a session: each in the place of an answer, before it, or inside it. When they do is the script's
//! business.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};

use super::{
    script::{At, Fault},
    session::{End, Refusal, Session, Stop, ordered, refused},
    world::lock,
};

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Lets the scripted faults of a moment strike. `start` is where the answer begins that they may spoil; `waits` can be
    /// interrupted while the statement is not done. True where COMMIT shall answer ROLLBACK.
    pub(super) async fn strike(&mut self, at: At, start: usize, waits: bool) -> Result<bool, Stop> {
        let faults = lock(&self.world.script).struck(&at);
        let mut rolls_back = false;
        for fault in faults {
            match fault {
                Fault::Drop => return Err(End::Closed.into()),
                Fault::Reset => return Err(End::Reset.into()),
                Fault::Silence => return Err(End::Silent.into()),
                Fault::Fatal(code) => {
                    return Err(End::Fatal { severity: "FATAL", code: code.to_owned() }.into());
                }
                Fault::Panic(code) => {
                    return Err(End::Fatal { severity: "PANIC", code: code.to_owned() }.into());
                }
                Fault::Error(code) => return Err(refused(code, message_of(code))),
                Fault::StrayCancel => return Err(refused("57014", message_of("57014"))),
                Fault::StalePlan => {
                    return Err(Stop::Refused(Refusal {
                        code: "0A000".to_owned(),
                        message: "cached plan must not change result type".to_owned(),
                        routine: "RevalidateCachedQuery",
                    }));
                }
                Fault::RollbackTag => rolls_back = true,
                Fault::Delay(time) => self.busy(time, waits).await?,
                Fault::Malformed(bytes) => {
                    self.out.truncate(start);
                    self.out.extend_from_slice(&bytes);
                    self.flush().await?;
                    return Err(End::Closed.into());
                }
                Fault::Cut(bytes) => self.cut = Some(start + bytes),
            }
        }
        Ok(rolls_back)
    }

    /// Works for so long, as far as anybody can see.
    async fn busy(&mut self, time: Duration, can_stop: bool) -> Result<(), Stop> {
        let limit = self.limit("statement_timeout").filter(|limit| can_stop && *limit < time);
        let cancel = Arc::clone(&self.cancel);
        tokio::select! {
            biased;
            end = ordered(&mut self.orders) => Err(end.into()),
            () = cancel.notified(), if can_stop => Err(refused("57014", message_of("57014"))),
            () = sleep(limit.unwrap_or(time)) => match limit {
                Some(_) => Err(refused("57014", "canceling statement due to statement timeout")),
                None => Ok(()),
            },
        }
    }

    /// A setting in milliseconds; `None` where there is none, or where it is switched off.
    pub(super) fn limit(&self, name: &str) -> Option<Duration> {
        let text = self.local_settings.get(name).or_else(|| self.settings.get(name))?;
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
        let unit = text.get(digits.len()..).unwrap_or_default().trim();
        Some(if unit == "s" { Duration::from_secs(number) } else { Duration::from_millis(number) })
    }
}

/// What PostgreSQL says with a code.
pub(super) fn message_of(code: &str) -> &'static str {
    match code {
        "08P01" => "invalid frontend message",
        "28P01" => "password authentication failed",
        "3D000" => "database does not exist",
        "40001" => "could not serialize access due to concurrent update",
        "40P01" => "deadlock detected",
        "53300" => "sorry, too many clients already",
        "57014" => "canceling statement due to user request",
        "57P01" => "terminating connection due to administrator command",
        "57P02" => "terminating connection because of crash of another server process",
        "57P03" => "the database system is starting up",
        "57P05" => "terminating connection due to idle-session timeout",
        _ => "scripted fault",
    }
}
