//! A proxy, stub backends and a raw client for the tests. It asserts nothing but that something happens in time.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ridethrough::{
    drain::Drain,
    health::{Health, Reads, Status, Writes},
    http::{HealthReport, Probes, Verbosity},
    mode::Mode,
    service::{Certificate, Entrance, serve},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::{
    config::{BackendsSection, Config},
    health,
    proxy::Proxy,
};

/// Long enough for the busiest machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something that must happen.
pub(super) async fn soon<F: Future>(what: &str, happens: F) -> F::Output {
    match timeout(PATIENCE, happens).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// An address at which nobody listens yet, and nobody else can.
pub(super) struct Reserved(TcpSocket);

impl Reserved {
    pub(super) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self(socket)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub(super) fn open(self) -> TcpListener {
        self.0.listen(128).unwrap()
    }
}

/// What a stub was asked, apart from health checks.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    is_frozen: Arc<AtomicBool>,
    is_sick: Arc<AtomicBool>,
}

impl Seen {
    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// From now on health checks get no answer.
    pub(super) fn freeze(&self) {
        self.is_frozen.store(true, Ordering::SeqCst);
    }

    /// From now on health checks are told that it is not ready.
    pub(super) fn sicken(&self) {
        self.is_sick.store(true, Ordering::SeqCst);
    }

    /// Health checks are answered again.
    pub(super) fn thaw(&self) {
        self.is_frozen.store(false, Ordering::SeqCst);
    }

    pub(super) fn note(&self, head: &str) {
        self.heads.lock().unwrap().push(head.to_owned());
    }
}

/// A backend: passes its checks, and leaves every other connection to `handler` with the first head it read.
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    pub(super) seen: Seen,
    tasks: JoinSet<()>,
}

impl Stub {
    pub(super) async fn start<H, F>(handler: H) -> Self
    where
        H: Fn(String, TcpStream, Seen) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), handler)
    }

    pub(super) fn start_on<H, F>(listener: TcpListener, handler: H) -> Self
    where
        H: Fn(String, TcpStream, Seen) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let (mut tasks, noted) = (JoinSet::new(), seen.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (handler, seen) = (handler.clone(), noted.clone());
                connections.spawn(async move {
                    let Some(head) = read_head(&mut stream).await else { return };
                    if head.starts_with("GET /readyz ") && seen.is_frozen.load(Ordering::SeqCst) {
                        let _ = read_head(&mut stream).await;
                        return;
                    }
                    if head.starts_with("GET /readyz ") {
                        let is_sick = seen.is_sick.load(Ordering::SeqCst);
                        let answer = if is_sick { NOT_READY } else { OK_CLOSE };
                        let _ = stream.write_all(answer.as_bytes()).await;
                        return;
                    }
                    seen.connections.fetch_add(1, Ordering::SeqCst);
                    seen.note(&head);
                    handler(head, stream, seen).await;
                });
            }
        });
        Self { address, seen, tasks }
    }

    /// A backend that answers every request with `answer` and keeps its connections.
    pub(super) async fn answering(answer: &'static str) -> Self {
        Self::start(move |_, stream, seen| answer_all(answer, stream, seen)).await
    }

    /// A backend whose answers are made from the head of each request, on connections that it keeps.
    pub(super) async fn scripted(answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> Self {
        Self::start(move |first, mut stream, seen| {
            let answer = answer.clone();
            async move {
                let mut head = first;
                loop {
                    if stream.write_all(answer(&head).as_bytes()).await.is_err() {
                        return;
                    }
                    let Some(next) = read_head(&mut stream).await else { return };
                    seen.note(&next);
                    head = next;
                }
            }
        })
        .await
    }

    pub(super) fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

pub(super) async fn answer_all(answer: &'static str, mut stream: TcpStream, seen: Seen) {
    loop {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let Some(head) = read_head(&mut stream).await else { return };
        seen.note(&head);
    }
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const NOT_READY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
pub(super) const OK_CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Reads up to the blank line after a head; `None` where the connection ends before.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    read_until(stream, "\r\n\r\n").await
}

/// Reads byte by byte up to `end`, so that nothing after it is taken.
pub(super) async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let byte = stream.read_u8().await.ok()?;
        read.push(byte);
        if read.ends_with(end.as_bytes()) {
            return Some(String::from_utf8_lossy(&read).into_owned());
        }
    }
}

/// A proxy in this process.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) drain: Drain,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) proxy: Arc<Proxy>,
    _tasks: JoinSet<()>,
}

/// Starts a proxy with quick checks; `change` sets what the test is about.
pub(super) async fn proxy(backends: &[SocketAddr], change: impl FnOnce(&mut Config)) -> Running {
    let urls = backends.iter().map(|address| format!("http://{address}")).collect();
    let mut config =
        Config { backends: BackendsSection { urls, ..BackendsSection::default() }, ..Config::default() };
    config.checks.interval = Duration::from_millis(50);
    config.checks.interval_bad = Duration::from_millis(20);
    config.checks.interval_bad_max = Duration::from_millis(50);
    config.limits.drain_delay = Duration::ZERO;
    change(&mut config);
    let authorities = config.validate().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, draining) = Drain::new();
    let tls = config.listen.tls.are_given().then(|| {
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        Arc::new(Certificate::load(config.listen.tls.clone(), config.listen.http2).unwrap())
    });
    let certificate = tls.clone();
    let proxy = Arc::new(Proxy::new(config.clone(), authorities, probes()));
    let mut tasks = JoinSet::new();
    for backend in proxy.backends.iter() {
        tasks.spawn(health::watch(Arc::clone(backend), config.checks.clone()));
    }
    let shown = Arc::clone(&proxy);
    tasks.spawn(async move {
        let handler = move |request| Arc::clone(&proxy).handle(request);
        let entrance = Entrance { listener, http2: config.listen.http2, tls };
        let _ = serve(entrance, handler, &config.limits, draining).await;
    });
    Running { address, drain, certificate, proxy: shown, _tasks: tasks }
}

fn probes() -> Probes {
    Probes::new("test", Verbosity::Brief, || HealthReport {
        health: Health {
            live: true,
            ready: true,
            started: true,
            status: Status::Pass,
            mode: Mode::Normal,
            reads: Reads::Fresh,
            writes: Writes::Committed,
        },
        since: SystemTime::UNIX_EPOCH,
        retry_after: None,
        checks: Vec::new(),
    })
}

/// An answer as it came over the wire.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) text: String,
}

impl Reply {
    pub(super) fn status(&self) -> u16 {
        let word = self.text.split(' ').nth(1).unwrap_or_default();
        word.parse().unwrap_or_else(|_| panic!("no status line: {:?}", self.text))
    }

    /// The value of a field, in lower case; empty where there is none.
    pub(super) fn field(&self, name: &str) -> String {
        let head = self.text.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_default()
    }

    pub(super) fn body(&self) -> &str {
        self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }
}

/// Sends `bytes` and reads until the proxy closes the connection.
pub(super) async fn raw(address: SocketAddr, bytes: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The proxy may answer and close before everything is written.
    let _ = stream.write_all(bytes.as_bytes()).await;
    rest(&mut stream).await
}

/// Reads until the proxy closes the connection.
pub(super) async fn rest(stream: &mut TcpStream) -> Reply {
    let mut text = Vec::new();
    // A reset is an end too; what was read before it stays.
    let _ = soon("the end of the connection", stream.read_to_end(&mut text)).await;
    Reply { text: String::from_utf8_lossy(&text).into_owned() }
}

/// A request on a connection of its own; `fields` are whole lines.
pub(super) async fn ask(address: SocketAddr, line: &str, fields: &[&str]) -> Reply {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    raw(address, &format!("{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{fields}\r\n")).await
}
