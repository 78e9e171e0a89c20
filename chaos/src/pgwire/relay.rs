//! One session: both directions at the same time, message by message, each with its own pace, so that a pipeline of a
//! client is passed on as it comes and whoever does not read stops only who writes to him. What comes before the session
//! begins is in `opening`.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::pgwire::cut::{Action, is_notice};
use crate::pgwire::follow::{Fate, Follower};
use crate::pgwire::frame::{Frame, Frames, Kind, Sender};
use crate::pgwire::message;
use crate::pgwire::opening::{self, Opened};
use crate::pgwire::plan::Fired;
use crate::pgwire::shared::{Shared, lock};
use crate::pgwire::steps::{Ending, Step, Steps};
use crate::pgwire::tls::Stream;
use crate::pgwire::trigger::Edge;

/// A statement that fails.
const FAILING: &str = "SELECT 1/0";
/// What goes out in one write at the most, unless one message is longer.
const WRITE_BYTES: usize = 64 * 1024;
/// Inside TLS an orderly end is a message, which a peer may not read.
const GOODBYE_LIMIT: Duration = Duration::from_millis(100);

/// One connection of a client, to its end.
pub(super) async fn carry(near: TcpStream, arrived: Instant, shared: Arc<Shared>) {
    tokio::select! {
        () = connection(near, arrived, &shared) => {}
        () = shared.impassable() => {}
    }
}

async fn connection(near: TcpStream, arrived: Instant, shared: &Arc<Shared>) {
    // What is asked for while nobody gets through ends at once, as does what is open then.
    shared.passable().await;
    // Without this, small messages would wait for the other side's delayed ACK.
    let _ = near.set_nodelay(true);
    let opened = Box::pin(opening::open(near, arrived, shared)).await;
    match opened {
        Ok(Opened::Session(pair, first)) => Box::pin(session(pair, first, shared)).await,
        Ok(Opened::Done) => {}
        Err(error) => note(shared, &error),
    }
}

fn note(shared: &Shared, error: &io::Error) {
    if error.kind() == io::ErrorKind::InvalidData {
        shared.tally().counts.malformed += 1;
    }
}

/// Both ends of a session.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) near: Stream,
    pub(super) far: Stream,
    /// What the client sent with its first packet.
    pub(super) frames: Frames,
    pub(super) open: Open,
}

/// An open session, counted as such while it is.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) number: u64,
    shared: Arc<Shared>,
}

impl Open {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        let number = shared.tally().begin();
        Self { number, shared: Arc::clone(shared) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.tally().end(self.number);
        self.shared.plans().ended(self.number);
    }
}

async fn session(pair: Pair, first: Vec<Step>, shared: &Arc<Shared>) {
    let Pair { mut near, mut far, frames, open } = pair;
    let follower = Mutex::new(Follower::default());
    let ending = {
        let (near_reads, near_writes) = tokio::io::split(&mut near);
        let (far_reads, far_writes) = tokio::io::split(&mut far);
        let lane = |sender, reads, writes, frames| Lane {
            sender,
            reads,
            writes,
            frames,
            out: BytesMut::new(),
            session: open.number,
            shared,
            follower: &follower,
            is_swallowing: false,
            is_withholding: false,
        };
        let up = lane(Sender::Client, near_reads, far_writes, frames).run(first);
        let down = lane(Sender::Server, far_reads, near_writes, Frames::of(Sender::Server)).run(Vec::new());
        either(up, down).await
    };
    shared.answered(follower.into_inner().unwrap_or_else(PoisonError::into_inner).unanswered());
    let ending = ending.unwrap_or_else(|error| {
        note(shared, &error);
        if error.kind() == io::ErrorKind::ConnectionReset { Ending::Reset } else { Ending::Close }
    });
    end(near, far, ending, shared).await;
}

/// Who ends the session. A client that is gone may have sent what the server is still to do; of a server that is gone
/// nothing is to be expected.
async fn either(
    up: impl Future<Output = io::Result<Option<Ending>>>,
    down: impl Future<Output = io::Result<Option<Ending>>>,
) -> io::Result<Ending> {
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => if let Some(ending) = ended? {
            return Ok(ending);
        },
        ended = &mut down => return Ok(ended?.unwrap_or(Ending::Close)),
    }
    Ok(down.await?.unwrap_or(Ending::Close))
}

pub(super) async fn end(mut near: Stream, mut far: Stream, ending: Ending, shared: &Shared) {
    match ending {
        Ending::Close | Ending::Shut(_) => {
            // Said before the streams are dropped: a socket that is closed with something unread in it is reset.
            let goodbye = async { tokio::join!(near.shutdown(), far.shutdown()) };
            let _ = timeout(GOODBYE_LIMIT, goodbye).await;
            if let Ending::Shut(id) = ending {
                shared.shut_by(id);
            }
        }
        Ending::Reset => {
            let _ = near.tcp().set_zero_linger();
            // A reset would overtake what the server has received and not yet read.
            let _ = timeout(GOODBYE_LIMIT, far.shutdown()).await;
        }
        Ending::Silence(id, server_leaves) => {
            let silent = async {
                match server_leaves {
                    Some(after) => {
                        sleep(after).await;
                        drop(far);
                        std::future::pending::<()>().await;
                    }
                    None => std::future::pending::<()>().await,
                }
            };
            tokio::select! {
                () = silent => {}
                () = shared.taken_back(id) => {}
            }
        }
    }
}

/// One direction of a session.
struct Lane<'s> {
    sender: Sender,
    reads: ReadHalf<&'s mut Stream>,
    writes: WriteHalf<&'s mut Stream>,
    frames: Frames,
    /// What is to be written next.
    out: BytesMut,
    session: u64,
    shared: &'s Arc<Shared>,
    follower: &'s Mutex<Follower>,
    is_swallowing: bool,
    /// The server's answer is not told until it is ready again.
    is_withholding: bool,
}

impl Lane<'_> {
    /// Passes on until the stream ends (`None`), or a rule ends the connection.
    async fn run(mut self, first: Vec<Step>) -> io::Result<Option<Ending>> {
        if let Some(ending) = self.follow(first, Kind::STARTUP).await? {
            return Ok(Some(ending));
        }
        loop {
            while let Some(frame) = self.frames.next_frame()? {
                let steps = self.judge(&frame)?;
                if let Some(ending) = self.follow(steps, frame.kind).await? {
                    return Ok(Some(ending));
                }
            }
            self.write().await?;
            self.shared.passable().await;
            let length = self.frames.read_from(&mut self.reads).await?;
            self.shared.passable().await;
            self.shared.traffic.add(self.sender, length);
            if length == 0 {
                self.writes.shutdown().await?;
                return Ok(None);
            }
        }
    }

    /// Does the steps of one message.
    async fn follow(&mut self, steps: Vec<Step>, message: Kind) -> io::Result<Option<Ending>> {
        for step in steps {
            match step {
                Step::Send(_) if self.is_swallowing => {}
                Step::Send(bytes) => {
                    self.out.extend_from_slice(&bytes);
                    if self.out.len() >= WRITE_BYTES {
                        self.write().await?;
                    }
                }
                Step::Bite(id) => self.shared.bit(id, Some(self.session), message),
                Step::Wait(time) => {
                    self.write().await?;
                    sleep(time).await;
                }
                Step::Park(id) => {
                    self.write().await?;
                    self.shared.taken_back(id).await;
                }
                Step::Swallow => self.is_swallowing = true,
                Step::Withhold => self.is_withholding = true,
                Step::End(ending) => {
                    self.write().await?;
                    return Ok(Some(ending));
                }
            }
        }
        Ok(None)
    }

    async fn write(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.writes.write_all_buf(&mut self.out).await?;
            self.writes.flush().await?;
        }
        Ok(())
    }

    fn judge(&mut self, frame: &Frame) -> io::Result<Vec<Step>> {
        match self.sender {
            // The server will not see it.
            Sender::Client if self.is_swallowing => Ok(Vec::new()),
            Sender::Client => self.judge_question(frame),
            Sender::Server => Ok(self.judge_answer(frame)),
        }
    }

    fn judge_question(&self, frame: &Frame) -> io::Result<Vec<Step>> {
        let mut follower = lock(self.follower);
        let statement = follower.statement_of(frame);
        let fired = self.shared.passes(self.session, frame, statement.as_deref());
        let mut steps = Steps::default();
        let mut is_refused = false;
        for one in fired.iter().filter(|one| one.edge == Edge::Before) {
            match &one.action {
                Action::Abort => {
                    let failing = message::query(FAILING);
                    follower.sent(&failing, None, Fate::Withhold)?;
                    steps.push(Step::Bite(one.id));
                    steps.send(failing.bytes);
                }
                Action::Say(said) if !is_notice(said) => {
                    let Some(refused) = refused(frame) else { continue };
                    follower.sent(&refused, statement.clone(), Fate::Replace(said.clone()))?;
                    steps.push(Step::Bite(one.id));
                    steps.send(refused.bytes);
                    // It is the Sync that brings the server back to its senses.
                    is_refused = frame.kind != Kind::client(b'S');
                }
                Action::Repeat => {
                    follower.sent(frame, statement.clone(), Fate::Pass)?;
                    steps.push(Step::Bite(one.id));
                    steps.send(frame.bytes.clone());
                }
                _ => steps.act(one),
            }
        }
        if !is_refused {
            if !steps.is_ended() {
                follower.sent(frame, statement, Fate::Pass)?;
            }
            steps.message(frame, &frame.bytes, &fired);
        }
        Ok(steps.list)
    }

    fn judge_answer(&mut self, frame: &Frame) -> Vec<Step> {
        let (answer, reads) = {
            let mut follower = lock(self.follower);
            (follower.answered(frame), follower.take_answered())
        };
        self.shared.answered(reads);
        let is_ready = message::status(frame).is_some();
        if self.is_swallowing || answer.fate == Fate::Withhold || (self.is_withholding && !is_ready) {
            return Vec::new();
        }
        let fired = self.shared.passes(self.session, frame, answer.statement.as_deref());
        let mut steps = Steps::default();
        if let Fate::Replace(said) = answer.fate {
            steps.send(said.to_bytes());
            if said.severity.ends_session() {
                steps.push(Step::End(Ending::Close));
            }
            return steps.list;
        }
        let bytes = if std::mem::take(&mut self.is_withholding) {
            message::ready_as_if_failed(frame)
        } else {
            frame.bytes.clone()
        };
        for one in fired.iter().filter(|one| one.edge == Edge::Before) {
            match &one.action {
                Action::Say(said) if !is_notice(said) => {
                    steps.push(Step::Bite(one.id));
                    return instead(steps, one, said.to_bytes(), is_ready.then_some(frame));
                }
                Action::Repeat => {
                    steps.push(Step::Bite(one.id));
                    steps.send(bytes.clone());
                }
                _ => steps.act(one),
            }
        }
        steps.message(frame, &bytes, &fired);
        steps.list
    }
}

/// What the server must refuse at the place of a client's message; `None` where it answers that with no error.
fn refused(frame: &Frame) -> Option<Frame> {
    match frame.kind.code() {
        b'Q' => Some(message::query("refused on purpose")),
        b'P' | b'B' | b'D' | b'E' | b'S' => Some(message::execute_nothing()),
        _ => None,
    }
}

/// An error in the place of a message of the server.
fn instead(mut steps: Steps, fired: &Fired, error: Bytes, ready: Option<&Frame>) -> Vec<Step> {
    steps.send(error);
    if fired.action.ends_connection() {
        steps.push(Step::End(Ending::Close));
    } else if let Some(ready) = ready {
        // The sign of readiness itself comes after the error.
        steps.send(message::ready_as_if_failed(ready));
    } else {
        steps.push(Step::Withhold);
    }
    steps.list
}

/// Both a stream and its end; for what has no session yet.
pub(super) async fn goodbye(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = timeout(GOODBYE_LIMIT, stream.shutdown()).await;
}
