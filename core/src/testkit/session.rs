//! One session: startup, the loop over messages, and what a fault does to the connection. What statements mean is in
//! `execute`.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{Notify, watch},
};
use tokio_postgres::types::Type;

use super::{
    data::Transaction,
    notices::Notices,
    reply::{Column, Datum},
    script::At,
    sql::Statement,
    strike::message_of,
    wire::{self, First, Frontend},
    world::{Mode, Order, World},
};

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Reset,
    /// Never, as far as the client can see.
    Silent,
    Fatal {
        severity: &'static str,
        code: String,
    },
}

/// An error that the session survives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) routine: &'static str,
}

/// Why a statement was not answered.
#[derive(Debug)]
pub(super) enum Stop {
    End(End),
    Refused(Refusal),
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

pub(super) fn refused(code: &str, message: impl Into<String>) -> Stop {
    Stop::Refused(Refusal { code: code.to_owned(), message: message.into(), routine: "fake" })
}

/// A prepared statement.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub(super) statement: Arc<Statement>,
    pub(super) parameters: Vec<Type>,
    pub(super) columns: Option<Vec<Column>>,
}

/// A statement with its values, and what of its answer is still to be fetched.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) statement: Prepared,
    pub(super) values: Vec<Option<Bytes>>,
    pub(super) formats: Vec<i16>,
    pub(super) rest: Option<(VecDeque<Vec<Datum>>, String)>,
}

pub(super) struct Session<S> {
    pub(super) world: Arc<World>,
    stream: S,
    input: BytesMut,
    pub(super) out: BytesMut,
    /// The length of `out` at which the connection closes.
    pub(super) cut: Option<usize>,
    pub(super) process: i32,
    pub(super) born: SystemTime,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) cancel: Arc<Notify>,
    mode: watch::Receiver<Mode>,
    pub(super) transaction: Option<Transaction>,
    pub(super) statements: HashMap<String, Prepared>,
    pub(super) portals: HashMap<String, Portal>,
    pub(super) settings: HashMap<String, String>,
    pub(super) notices: Notices,
    /// Those of SET LOCAL, which end with the transaction.
    pub(super) local_settings: HashMap<String, String>,
    /// An error came inside an extended query: everything up to Sync is passed over.
    pub(super) skipping: bool,
}

/// Serves one connection to its end; gives the stream back where it must be reset.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(world: Arc<World>, mut stream: S) -> Option<S> {
    let mut input = BytesMut::new();
    let mut mode = world.mode.subscribe();
    loop {
        let known = mode.borrow_and_update().clone();
        match known {
            Mode::Away => return Some(stream),
            Mode::Silent => {
                let _ = mode.changed().await;
                continue;
            }
            Mode::Up | Mode::Refusing(_) => {}
        }
        match wire::take_first(&mut input) {
            Err(_) => return None,
            Ok(Some(First::Encryption)) => stream.write_all(b"N").await.ok()?,
            Ok(Some(First::Cancel { process, secret })) => {
                world.counters.cancels.fetch_add(1, Ordering::Relaxed);
                world.cancel(process, Some(secret));
                return None;
            }
            Ok(Some(First::Startup(asked))) => {
                return Session::new(world, stream, input, asked).run().await;
            }
            Ok(None) => tokio::select! {
                read = stream.read_buf(&mut input) => if !matches!(read, Ok(1..)) {
                    return None;
                },
                changed = mode.changed() => changed.ok()?,
            },
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(world: Arc<World>, stream: S, input: BytesMut, asked: HashMap<String, String>) -> Self {
        let registered = world.register();
        let mut settings = world.settings.clone();
        settings.extend(asked);
        let mut session = Self {
            stream,
            input,
            out: BytesMut::new(),
            cut: None,
            process: registered.process,
            born: registered.born,
            orders: registered.orders,
            cancel: registered.cancel,
            mode: world.mode.subscribe(),
            transaction: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            settings,
            notices: Notices::of(&world.notices),
            local_settings: HashMap::new(),
            skipping: false,
            world,
        };
        session.greet(registered.secret);
        session
    }

    /// Puts together what follows a successful authentication.
    fn greet(&mut self, secret: i32) {
        wire::put(&mut self.out, b'R', |body| body.put_i32(0));
        for (name, value) in &self.world.settings {
            wire::put_parameter_status(&mut self.out, name, value);
        }
        let process = self.process;
        wire::put(&mut self.out, b'K', |body| {
            body.put_i32(process);
            body.put_i32(secret);
        });
    }

    async fn run(mut self) -> Option<S> {
        let end = self.live().await.err().unwrap_or(End::Closed);
        match &end {
            End::Closed | End::Reset => {}
            End::Silent => self.swallow().await,
            End::Fatal { severity, code } => {
                let (severity, code) = (*severity, code.clone());
                self.put_error(severity, &code, message_of(&code), "fake");
                let _ = self.write_out().await;
            }
        }
        self.roll_back();
        self.world.deregister(self.process);
        (end == End::Reset).then_some(self.stream)
    }

    async fn live(&mut self) -> Result<(), End> {
        let greeting = std::mem::take(&mut self.out);
        if let Mode::Refusing(code) = *self.mode.borrow() {
            return Err(End::Fatal { severity: "FATAL", code: code.to_owned() });
        }
        match self.strike(At::Connect, 0, true).await {
            Ok(_) => {}
            Err(Stop::End(end)) => return Err(end),
            Err(Stop::Refused(refusal)) => return Err(End::Fatal { severity: "FATAL", code: refusal.code }),
        }
        self.authenticate().await?;
        self.out.extend_from_slice(&greeting);
        self.put_ready();
        self.flush().await?;
        loop {
            let message = self.receive().await?;
            self.world.counters.messages.fetch_add(1, Ordering::Relaxed);
            if message == Frontend::Terminate {
                return Ok(());
            }
            let start = self.out.len();
            let ends_request = matches!(message, Frontend::Query(_) | Frontend::Sync);
            match self.answer(message, start).await {
                Ok(()) => {}
                Err(Stop::End(end)) => return Err(end),
                Err(Stop::Refused(refusal)) => {
                    self.fail(&refusal);
                    self.skipping = !ends_request;
                    if ends_request {
                        self.ready();
                    }
                }
            }
            if ends_request {
                self.flush().await?;
                self.rest().await?;
            }
        }
    }

    /// Handles one message with the faults before and after it.
    async fn answer(&mut self, message: Frontend, start: usize) -> Result<(), Stop> {
        self.strike(At::BeforeMessage, start, true).await?;
        self.handle(message).await?;
        match self.strike(At::AfterMessage, start, false).await {
            Err(Stop::Refused(refusal)) => {
                // In the place of the answer.
                self.out.truncate(start);
                Err(Stop::Refused(refusal))
            }
            other => other.map(|_| ()),
        }
    }

    /// The moment between requests.
    async fn rest(&mut self) -> Result<(), End> {
        if self.transaction.is_some() {
            return Ok(());
        }
        match self.strike(At::Idle, 0, false).await {
            Ok(_) => Ok(()),
            Err(Stop::End(end)) => Err(end),
            Err(Stop::Refused(refusal)) => {
                self.fail(&refusal);
                self.flush().await
            }
        }
    }

    async fn authenticate(&mut self) -> Result<(), End> {
        let Some(password) = self.world.password.clone() else { return Ok(()) };
        wire::put(&mut self.out, b'R', |body| body.put_i32(3));
        self.flush().await?;
        match self.receive().await? {
            Frontend::Password(given) if given == password => Ok(()),
            _ => Err(End::Fatal { severity: "FATAL", code: "28P01".to_owned() }),
        }
    }

    async fn receive(&mut self) -> Result<Frontend, End> {
        loop {
            self.while_silent().await?;
            match wire::take(&mut self.input) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(_) => return Err(End::Fatal { severity: "FATAL", code: "08P01".to_owned() }),
            }
            tokio::select! {
                biased;
                end = ordered(&mut self.orders) => return Err(end),
                changed = self.mode.changed() => changed.map_err(|_| End::Closed)?,
                read = self.stream.read_buf(&mut self.input) => match read {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Err(End::Closed),
                },
                notice = self.notices.heard(), if self.transaction.is_none() && self.out.is_empty() => {
                    self.put_notice(&notice);
                    self.flush().await?;
                }
            }
        }
    }

    async fn while_silent(&mut self) -> Result<(), End> {
        while *self.mode.borrow_and_update() == Mode::Silent {
            tokio::select! {
                biased;
                end = ordered(&mut self.orders) => return Err(end),
                changed = self.mode.changed() => changed.map_err(|_| End::Closed)?,
            }
        }
        Ok(())
    }

    /// Sends what is put together.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        self.while_silent().await?;
        let is_cut = self.cut.take().map(|cut| self.out.truncate(cut)).is_some();
        tokio::select! {
            biased;
            end = ordered(&mut self.orders) => return Err(end),
            written = self.stream.write_all_buf(&mut self.out) => written.map_err(|_| End::Closed)?,
        }
        self.stream.flush().await.map_err(|_| End::Closed)?;
        if is_cut { Err(End::Closed) } else { Ok(()) }
    }

    /// The last words, for a client that may not be listening any more.
    async fn write_out(&mut self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(1);

        let written = tokio::time::timeout(PATIENCE, self.stream.write_all_buf(&mut self.out)).await;
        written.unwrap_or(Ok(()))?;
        self.stream.flush().await
    }

    /// Takes the client's bytes and says nothing, until it gives up.
    async fn swallow(&mut self) {
        loop {
            self.input.clear();
            tokio::select! {
                _ = ordered(&mut self.orders) => return,
                read = self.stream.read_buf(&mut self.input) => if !matches!(read, Ok(1..)) {
                    return;
                },
            }
        }
    }

    pub(super) fn fail(&mut self, refusal: &Refusal) {
        self.put_error("ERROR", &refusal.code, &refusal.message, refusal.routine);
        if let Some(transaction) = &mut self.transaction {
            transaction.failed = true;
        }
    }

    fn put_error(&mut self, severity: &str, code: &str, message: &str, routine: &str) {
        wire::put(&mut self.out, b'E', |body| {
            for (field, text) in
                [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message), (b'R', routine)]
            {
                body.put_u8(field);
                wire::put_text(body, text);
            }
            body.put_u8(0);
        });
    }

    pub(super) fn put_ready(&mut self) {
        let status = match &self.transaction {
            None => b'I',
            Some(transaction) if transaction.failed => b'E',
            Some(_) => b'T',
        };
        wire::put(&mut self.out, b'Z', |body| body.put_u8(status));
    }
}

/// Waits for an order that ends the session.
pub(super) async fn ordered(orders: &mut watch::Receiver<Order>) -> End {
    match orders.wait_for(|order| *order != Order::GoOn).await.map(|order| order.clone()) {
        Ok(Order::Fatal(code)) => End::Fatal { severity: "FATAL", code },
        Ok(Order::Reset) => End::Reset,
        Ok(Order::GoOn) | Err(_) => End::Closed,
    }
}
