//! How a connection begins: questions about encryption, a cancel request, or the start of a session. What comes after the
//! start is in `relay`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::pgwire::cut::Action;
use crate::pgwire::frame::{Frame, Frames, Kind, Sender, malformed};
use crate::pgwire::message;
use crate::pgwire::plan::Fired;
use crate::pgwire::relay::{Open, Pair, goodbye};
use crate::pgwire::shared::{Shared, lock};
use crate::pgwire::steps::{Ending, Step, Steps};
use crate::pgwire::tls::{Stream, Tls};
use crate::pgwire::trigger::Edge;

/// PostgreSQL's own default for how long a client may take to come to its point (`authentication_timeout`).
const OPENING_LIMIT: Duration = Duration::from_secs(60);
/// The server is on the loopback, or the way to it is broken.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A client asks for each kind of encryption once.
const QUESTIONS_MAX: usize = 4;
/// The server ends the connection of a cancel request when it has seen to it.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);
/// "No encryption", and "go on inside TLS".
const NO: &[u8] = b"N";
const YES: &[u8] = b"S";
const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";

/// How it went.
pub(super) enum Opened {
    /// A session has begun; the steps bring the client's first packet to the server.
    Session(Pair, Vec<Step>),
    /// There is nothing more to do.
    Done,
}

/// What a connection began with.
enum First {
    Startup(Stream, Frame, Frames),
    Cancel(Stream, Frame),
    Ended,
}

pub(super) async fn open(near: TcpStream, arrived: Instant, shared: &Arc<Shared>) -> io::Result<Opened> {
    let first = timeout(OPENING_LIMIT, first(near, shared)).await;
    match first.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        First::Startup(near, frame, frames) => start(near, frame, frames, shared).await,
        First::Cancel(near, frame) => {
            shared.tally().arrivals.forget(arrived);
            cancel(near, &frame, shared).await?;
            Ok(Opened::Done)
        }
        First::Ended => Ok(Opened::Done),
    }
}

/// Answers what the client asks about encryption until it comes to its point.
async fn first(near: TcpStream, shared: &Arc<Shared>) -> io::Result<First> {
    let mut near = Stream::Plain(near);
    let mut frames = Frames::of(Sender::Client);
    for _ in 0..=QUESTIONS_MAX {
        let Some(frame) = next(&mut near, &mut frames, shared).await? else { return Ok(First::Ended) };
        if frame.kind == Kind::STARTUP {
            return Ok(First::Startup(near, frame, frames));
        }
        if frame.kind == Kind::CANCEL_REQUEST {
            return Ok(First::Cancel(near, frame));
        }
        let fired = shared.fire(None, &frame, None);
        if let Some(ending) = before(&mut near, &fired, frame.kind, None, shared).await? {
            leave(near, ending, shared).await;
            return Ok(First::Ended);
        }
        // What was sent before the answer could be slipped in by somebody else.
        if !frames.is_empty() {
            return Err(malformed("something follows a question about encryption"));
        }
        near = match (near, frame.kind) {
            (Stream::Plain(plain), Kind::SSL_REQUEST) => match secure(plain, shared).await? {
                Some(near) => near,
                None => return Ok(First::Ended),
            },
            (mut near, _) => {
                near.write_all(NO).await?;
                near
            }
        };
    }
    Err(malformed("too many questions about encryption"))
}

async fn next(near: &mut Stream, frames: &mut Frames, shared: &Shared) -> io::Result<Option<Frame>> {
    loop {
        if let Some(frame) = frames.next_frame()? {
            return Ok(Some(frame));
        }
        let length = frames.read_from(near).await?;
        shared.passable().await;
        shared.traffic.add(Sender::Client, length);
        if length == 0 {
            return Ok(None);
        }
    }
}

/// Answers a client that asks for TLS; `None` where that is the end.
async fn secure(mut near: TcpStream, shared: &Shared) -> io::Result<Option<Stream>> {
    let tls = *lock(&shared.tls);
    match tls {
        Tls::Refused => {
            near.write_all(NO).await?;
            Ok(Some(Stream::Plain(near)))
        }
        Tls::Offered | Tls::Expired => {
            near.write_all(YES).await?;
            shared.certificates.accept(near, tls == Tls::Expired).await.map(Some)
        }
        Tls::Cut => {
            near.write_all(YES).await?;
            // The client's first words, which get no answer.
            let _ = near.read_u8().await;
            Ok(None)
        }
    }
}

/// What rules want before a packet that no session has seen yet. How the connection ends, where it does.
async fn before(
    near: &mut Stream,
    fired: &[Fired],
    message: Kind,
    session: Option<u64>,
    shared: &Shared,
) -> io::Result<Option<Ending>> {
    for one in fired.iter().filter(|one| one.edge == Edge::Before) {
        let mut steps = Steps::default();
        if let Action::Say(said) = &one.action {
            // Whoever is told so before a session has begun has no session afterwards.
            steps.list.extend([Step::Bite(one.id), Step::Send(said.to_bytes()), Step::End(Ending::Close)]);
        } else {
            steps.act(one);
        }
        for step in steps.list {
            match step {
                Step::Bite(id) => shared.bit(id, session, message),
                Step::Send(bytes) => near.write_all(&bytes).await?,
                Step::Wait(time) => sleep(time).await,
                Step::Park(id) => shared.taken_back(id).await,
                Step::End(ending) => return Ok(Some(ending)),
                Step::Swallow => return Ok(Some(Ending::Silence(one.id, None))),
                Step::Withhold => {}
            }
        }
    }
    Ok(None)
}

async fn leave(near: Stream, ending: Ending, shared: &Shared) {
    match ending {
        Ending::Close => goodbye(near).await,
        Ending::Shut(id) => {
            goodbye(near).await;
            shared.shut_by(id);
        }
        Ending::Reset => {
            let _ = near.tcp().set_zero_linger();
        }
        Ending::Silence(id, _) => shared.taken_back(id).await,
    }
}

async fn start(mut near: Stream, frame: Frame, frames: Frames, shared: &Arc<Shared>) -> io::Result<Opened> {
    let open = Open::begin(shared);
    let fired = shared.passes(open.number, &frame, None);
    if let Some(ending) = before(&mut near, &fired, frame.kind, Some(open.number), shared).await? {
        leave(near, ending, shared).await;
        return Ok(Opened::Done);
    }
    let Ok(far) = connect(shared).await else {
        shared.tally().counts.unreachable += 1;
        // As near as one can come to the refusal that the client would have met without a proxy.
        let _ = near.tcp().set_zero_linger();
        return Ok(Opened::Done);
    };
    let mut steps = Steps::default();
    steps.message(&frame, &frame.bytes, &fired);
    Ok(Opened::Session(Pair { near, far, frames, open }, steps.list))
}

/// A connection to the server, inside TLS where that is wanted.
async fn connect(shared: &Shared) -> io::Result<Stream> {
    let connecting = async {
        let mut far = TcpStream::connect(shared.target).await?;
        far.set_nodelay(true)?;
        let Some(connector) = &shared.connector else { return Ok(Stream::Plain(far)) };
        far.write_all(SSL_REQUEST).await?;
        if far.read_u8().await? != b'S' {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the server speaks no TLS"));
        }
        connector.connect(far).await
    };
    timeout(CONNECT_LIMIT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Passes a cancel request on as it is: process and secret are the server's own, which names its session by them.
async fn cancel(mut near: Stream, frame: &Frame, shared: &Shared) -> io::Result<()> {
    let session = {
        let mut tally = shared.tally();
        let session = message::key(frame).and_then(|key| tally.session_of(&key));
        tally.counts.cancels += 1;
        tally.counts.cancels_of_sessions += u64::from(session.is_some());
        session
    };
    let fired = shared.fire(session, frame, None);
    let mut times = 1;
    let mut late = None;
    let mut others = Vec::new();
    for one in fired {
        match one.action {
            // Lost on its way: the client hears nothing of that.
            Action::Swallow => times = 0,
            Action::Repeat => times = 2,
            Action::Hold(time) => late = Some(time),
            _ => {
                others.push(one);
                continue;
            }
        }
        shared.bit(one.id, session, frame.kind);
    }
    if let Some(ending) = before(&mut near, &others, frame.kind, session, shared).await? {
        leave(near, ending, shared).await;
        return Ok(());
    }
    if let Some(time) = late {
        // The client is done with it long before it arrives.
        goodbye(near).await;
        sleep(time).await;
        return send_cancel(frame, times, shared).await;
    }
    let sent = send_cancel(frame, times, shared).await;
    // Only now, because a client may wait for this before it asks anything else.
    goodbye(near).await;
    sent
}

async fn send_cancel(frame: &Frame, times: usize, shared: &Shared) -> io::Result<()> {
    for _ in 0..times {
        let mut far = connect(shared).await?;
        far.write_all(&frame.bytes).await?;
        far.flush().await?;
        let mut rest = [0; 64];
        let _ = timeout(CANCEL_LIMIT, far.read(&mut rest)).await;
    }
    Ok(())
}
