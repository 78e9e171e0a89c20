//! The way from clients to endpoints, as a node's packet filter makes it: each new connection goes to one endpoint by
//! chance, for as long as it lasts. It hears of changes late, and sends clients to who is gone until then.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Error;
use crate::ports;

/// Connections at one time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 512;
/// News on its way; more than this in one delay is lost, as no cluster makes it.
const NEWS_MAX: usize = 1_024;

type News = (Instant, Vec<SocketAddr>);

/// A router. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Router(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    delay: (Duration, Duration),
    /// News on its way, with the time of its arrival.
    news: mpsc::Sender<News>,
    last_told: Mutex<Vec<SocketAddr>>,
    known: Mutex<Vec<SocketAddr>>,
    random: Mutex<fastrand::Rng>,
}

impl Router {
    /// A router on a free port that hears of changes after a time by chance between the two of `delay`, and its work:
    /// drive the future, for it never ends by itself.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no port, [`Error::State`] where none is free.
    pub fn bind(
        delay: (Duration, Duration),
        seed: u64,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), Error> {
        let what = "listen for a router";
        let listener =
            std::net::TcpListener::bind(ports::loopback(ports::free()?)).map_err(Error::io(what))?;
        listener.set_nonblocking(true).map_err(Error::io(what))?;
        let (news, arriving) = mpsc::channel(NEWS_MAX);
        let router = Self(Arc::new(Inner {
            address: listener.local_addr().map_err(Error::io(what))?,
            delay,
            news,
            last_told: Mutex::default(),
            known: Mutex::default(),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
        }));
        let work = {
            let router = router.clone();
            async move {
                tokio::join!(router.hear(arriving), router.route(listener));
            }
        };
        Ok((router, work))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The endpoints that it knows of by now.
    #[must_use]
    pub fn known(&self) -> Vec<SocketAddr> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These are the endpoints now; it will hear of it, in the order of the telling.
    pub fn tell(&self, endpoints: Vec<SocketAddr>) {
        let mut last = self.0.last_told.lock().unwrap_or_else(PoisonError::into_inner);
        if *last == endpoints {
            return;
        }
        last.clone_from(&endpoints);
        let (least, most) = self.0.delay;
        let delay = least + most.saturating_sub(least).mul_f64(self.random(fastrand::Rng::f64));
        let _ = self.0.news.try_send((Instant::now() + delay, endpoints));
    }

    async fn hear(&self, mut arriving: mpsc::Receiver<News>) {
        while let Some((at, endpoints)) = arriving.recv().await {
            tokio::time::sleep_until(at).await;
            *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
        }
    }

    async fn route(&self, listener: std::net::TcpListener) {
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            while connections.try_join_next().is_some() {}
            let Ok((client, _)) = listener.accept().await else { continue };
            let known = self.known();
            let endpoint = self.random(|random| random.choice(known));
            connections.spawn(connect(client, endpoint));
        }
    }

    fn random<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.random.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Joins a client and an endpoint. Where there is none, or nobody listens there, the client's connection ends, which is as
/// near as a process comes to a refusal.
async fn connect(mut client: TcpStream, endpoint: Option<SocketAddr>) {
    let Some(endpoint) = endpoint else { return };
    if let Ok(mut pod) = TcpStream::connect(endpoint).await {
        // Either side's end is the other's.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn answers(router: &Router) -> bool {
        let mut stream = TcpStream::connect(router.address()).await.unwrap();
        let _ = stream.write_all(b"x").await;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn each_connection_goes_to_an_endpoint_and_to_nobody_where_there_is_none() {
        let (router, work) = Router::bind((Duration::ZERO, Duration::ZERO), 1).unwrap();
        let _work = tokio::spawn(work);
        assert!(!answers(&router).await, "nobody is there");
        for endpoints in [vec![echo().await], vec![echo().await, echo().await], Vec::new()] {
            router.tell(endpoints.clone());
            while router.known() != endpoints {
                tokio::task::yield_now().await;
            }
            for _ in 0..4 {
                assert_eq!(answers(&router).await, !endpoints.is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_hears_late_and_in_the_order_of_the_telling() {
        let (least, most) = (Duration::from_millis(100), Duration::from_millis(900));
        let (router, work) = Router::bind((least, most), 1).unwrap();
        let _work = tokio::spawn(work);
        let [one, two] = [ports::loopback(1), ports::loopback(2)];
        router.tell(vec![one]);
        router.tell(vec![one, two]);
        let (start, mut heard) = (Instant::now(), Vec::new());
        while start.elapsed() < most + least {
            let known = router.known();
            if heard.last().is_none_or(|(_, last)| *last != known) {
                heard.push((start.elapsed(), known));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let order: Vec<&[SocketAddr]> = heard.iter().map(|(_, known)| known.as_slice()).collect();
        assert!(order.starts_with(&[&[]]) && order.ends_with(&[&[one, two]]), "{heard:?}");
        assert!(heard.iter().skip(1).all(|(at, _)| *at >= least), "{heard:?}");
    }
}
