//! LISTEN and NOTIFY: who hears what, and when. A notice of a transaction is told when that commits, and to sessions that
//! are in none.

use std::collections::HashSet;

use bytes::BufMut as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::broadcast,
};
use tokio_postgres::types::Type;

use super::{
    execute::Executed,
    reply::{Column, null},
    session::Session,
    wire,
};

/// Notices on their way to one session; more than these are lost to it, which PostgreSQL would not allow.
const QUEUE: usize = 1_024;

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) process: i32,
    pub(super) channel: String,
    pub(super) payload: String,
}

/// The way from sessions to sessions.
pub(super) fn channel() -> broadcast::Sender<Notice> {
    broadcast::Sender::new(QUEUE)
}

/// What one session listens for, and what its transaction will tell.
#[derive(Debug)]
pub(super) struct Notices {
    arriving: broadcast::Receiver<Notice>,
    listens: HashSet<String>,
    untold: Vec<Notice>,
}

impl Notices {
    pub(super) fn of(sender: &broadcast::Sender<Notice>) -> Self {
        Self { arriving: sender.subscribe(), listens: HashSet::new(), untold: Vec::new() }
    }

    /// The next notice that the session listens for.
    pub(super) async fn heard(&mut self) -> Notice {
        loop {
            match self.arriving.recv().await {
                Ok(notice) if self.listens.contains(&notice.channel) => return notice,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    pub(super) fn forget(&mut self) {
        self.untold.clear();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// The answer to a statement that is about notices; `None` to any other.
    pub(super) fn about_notices(&mut self, words: &[String]) -> Option<Executed> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["listen", channel] => {
                self.notices.listens.insert((*channel).to_owned());
                Some(Executed::done("LISTEN"))
            }
            ["unlisten", channel] => {
                self.notices.listens.retain(|listened| *channel != "*" && listened != channel);
                Some(Executed::done("UNLISTEN"))
            }
            ["notify", channel] => {
                self.will_tell(channel, "");
                Some(Executed::done("NOTIFY"))
            }
            ["notify", channel, ",", payload] => {
                self.will_tell(channel, payload);
                Some(Executed::done("NOTIFY"))
            }
            ["select", "pg_notify", "(", channel, ",", payload, ")"] => {
                self.will_tell(channel, payload);
                let column = Column { name: "pg_notify".to_owned(), kind: Type::VOID };
                Some(Executed::rows("SELECT", vec![column], vec![vec![null(Type::VOID)]]))
            }
            _ => None,
        }
    }

    fn will_tell(&mut self, channel: &str, payload: &str) {
        let plain = |text: &str| text.trim_matches('\'').to_owned();
        let (channel, payload) = (plain(channel), plain(payload));
        self.notices.untold.push(Notice { process: self.process, channel, payload });
    }

    /// The transaction is committed: what it had to tell is told.
    pub(super) fn tell(&mut self) {
        for notice in self.notices.untold.drain(..) {
            // Nobody listens at all.
            let _ = self.world.notices.send(notice);
        }
    }

    pub(super) fn put_notice(&mut self, notice: &Notice) {
        wire::put(&mut self.out, b'A', |body| {
            body.put_i32(notice.process);
            wire::put_text(body, &notice.channel);
            wire::put_text(body, &notice.payload);
        });
    }
}
