//! Toxiproxy's HTTP interface (2.x) over a collection of proxies: requests to answers, one after another. It opens no
//! socket for them; `serve` does.
//!
//! Where it differs from toxiproxy, it refuses what would harm: addresses off the loopback unless they are allowed, and
//! more than it can hold.

mod body;
mod refusal;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::toxic::address::Reach;
use crate::toxic::api::body::{ProxyBody, ProxyView, ToxicBody};
use crate::toxic::kind::{Kind, Stream, Toxic};
use crate::toxic::metrics;
use crate::toxic::proxy::{Proxy, Settings};

pub use refusal::Refusal;

/// The version of the interface. Clients look at it to know what they may use.
pub const VERSION: &str = "2.12.0";
/// No laboratory needs more, and each has a listener.
pub const PROXIES_MAX: usize = 256;
/// Names stand in paths.
const NAME_BYTES_MAX: usize = 200;

const JSON: &str = "application/json";

/// A request that has arrived whole.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// Its header `User-Agent`, where it has one.
    pub user_agent: Option<String>,
    /// Its body.
    pub body: Bytes,
}

/// A collection of proxies that is driven through the interface.
#[derive(Debug)]
pub struct Api {
    seed: u64,
    reach: Reach,
    proxies: BTreeMap<String, Proxy>,
}

type Answer = Result<Response<Bytes>, Refusal>;

impl Api {
    /// No proxies yet. The seed is that of each of them.
    #[must_use]
    pub fn new(seed: u64, reach: Reach) -> Self {
        Self { seed, reach, proxies: BTreeMap::new() }
    }

    /// Answers a request. What it asked for is done when it returns: a listener is open or closed, and bytes that
    /// come after it meet the toxics as they are then.
    ///
    /// # Cancel safety
    /// A proxy may be left stopped.
    pub async fn answer(&mut self, ask: Ask) -> Response<Bytes> {
        // A page in a browser could otherwise post to it from anywhere.
        if ask.user_agent.as_deref().is_some_and(|agent| agent.starts_with("Mozilla/")) {
            return plain(StatusCode::FORBIDDEN, "User agent not allowed\n".to_owned());
        }
        self.route(&ask).await.unwrap_or_else(|refusal| refusal.response())
    }

    async fn route(&mut self, ask: &Ask) -> Answer {
        let parts: Option<Vec<String>> = ask.path.strip_prefix('/').map(segments);
        let parts = parts.unwrap_or_default();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (get, post) = (ask.method == Method::GET, ask.method == Method::POST);
        let change = post || ask.method == Method::PATCH;
        let delete = ask.method == Method::DELETE;
        match *parts.as_slice() {
            ["proxies"] if get => Ok(self.index()),
            ["proxies"] if post => self.create(&ask.body).await,
            ["populate"] if post => Ok(self.populate_reply(&ask.body).await),
            ["reset"] if post => self.reset().await,
            ["version"] if get => Ok(reply(StatusCode::OK, &json!({"version": VERSION}))),
            ["metrics"] if get => Ok(plain(StatusCode::OK, metrics::text(self.proxies.values()))),
            ["proxies", name] if get => {
                self.proxy(name).map(|proxy| reply(StatusCode::OK, &ProxyView::of(proxy)))
            }
            ["proxies", name] if change => self.update(name, &ask.body).await,
            ["proxies", name] if delete => self.delete(name).await,
            ["proxies", name, "toxics"] if get => self.toxics(name),
            ["proxies", name, "toxics"] if post => self.put_toxic(name, &ask.body),
            ["proxies", name, "toxics", toxic] if get => self.toxic(name, toxic),
            ["proxies", name, "toxics", toxic] if change => self.update_toxic(name, toxic, &ask.body),
            ["proxies", name, "toxics", toxic] if delete => self.delete_toxic(name, toxic),
            ["proxies" | "populate" | "reset" | "version" | "metrics"]
            | ["proxies", _]
            | ["proxies", _, "toxics"]
            | ["proxies", _, "toxics", _] => Ok(plain(StatusCode::METHOD_NOT_ALLOWED, String::new())),
            _ => Ok(plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
        }
    }

    fn index(&self) -> Response<Bytes> {
        let all: BTreeMap<&str, ProxyView> =
            self.proxies.iter().map(|(name, proxy)| (name.as_str(), ProxyView::of(proxy))).collect();
        reply(StatusCode::OK, &all)
    }

    async fn create(&mut self, body: &[u8]) -> Answer {
        let wanted: ProxyBody = body::read(body)?;
        let enabled = wanted.enabled.unwrap_or(true);
        let settings = self.settings(wanted, "")?;
        if self.proxies.contains_key(&settings.name) {
            return Err(Refusal::PROXY_EXISTS);
        }
        let proxy = self.add(settings, enabled).await?;
        Ok(reply(StatusCode::CREATED, &ProxyView::of(proxy)))
    }

    /// The settings of a new proxy; `place` says which of several, for the error.
    fn settings(&self, wanted: ProxyBody, place: &str) -> Result<Settings, Refusal> {
        let given = |value: Option<String>, field: &str| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| Refusal::missing(field, place))
        };
        let name = given(wanted.name, "name")?;
        let upstream = given(wanted.upstream, "upstream")?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Refusal::bad_body(format!("a name has {NAME_BYTES_MAX} bytes at the most")));
        }
        let listen = wanted.listen.unwrap_or_default();
        Ok(Settings { name, listen, upstream, seed: self.seed, reach: self.reach })
    }

    /// Adds a proxy, or puts it into the place of the one of its name.
    async fn add(&mut self, settings: Settings, enabled: bool) -> Result<&Proxy, Refusal> {
        let name = settings.name.clone();
        if !self.proxies.contains_key(&name) && self.proxies.len() >= PROXIES_MAX {
            return Err(Refusal::too_many(format!("too many proxies: there can be {PROXIES_MAX}")));
        }
        let mut proxy = Proxy::new(settings);
        if enabled {
            proxy.start().await?;
        }
        Ok(self.proxies.entry(name).insert_entry(proxy).into_mut())
    }

    /// Adds the proxies of a JSON array. One that has the same addresses as the one of its name is left as it is.
    ///
    /// # Errors
    /// [`Refusal`] of the first that cannot be had; those before it stay.
    ///
    /// # Cancel safety
    /// Those that were added before stay.
    pub async fn populate(&mut self, body: &[u8]) -> Result<(), Refusal> {
        self.populate_one_by_one(body, &mut Vec::new()).await
    }

    async fn populate_one_by_one(&mut self, body: &[u8], names: &mut Vec<String>) -> Result<(), Refusal> {
        let wanted: Vec<ProxyBody> = body::read::<Option<_>>(body)?.unwrap_or_default();
        // All are looked at before the first is opened.
        let wanted = wanted.into_iter().enumerate().map(|(index, one)| {
            let enabled = one.enabled.unwrap_or(true);
            self.settings(one, &format!(" at proxy {}", index + 1)).map(|settings| (settings, enabled))
        });
        for (settings, enabled) in wanted.collect::<Result<Vec<_>, _>>()? {
            let name = settings.name.clone();
            let kept = match self.proxies.get_mut(&name) {
                Some(own) if own.is_same(&settings.listen, &settings.upstream).await? => true,
                Some(own) => {
                    own.stop().await;
                    false
                }
                None => false,
            };
            if !kept {
                self.add(settings, enabled).await?;
            }
            names.push(name);
        }
        Ok(())
    }

    async fn populate_reply(&mut self, body: &[u8]) -> Response<Bytes> {
        let mut names = Vec::new();
        let refusal = self.populate_one_by_one(body, &mut names).await.err();
        let proxies: Vec<ProxyView> =
            names.iter().filter_map(|name| self.proxies.get(name)).map(ProxyView::of).collect();
        match refusal {
            None => reply(StatusCode::CREATED, &json!({"proxies": proxies})),
            Some(Refusal { status, error }) => {
                reply(status, &json!({"error": error, "status": status.as_u16(), "proxies": proxies}))
            }
        }
    }

    async fn reset(&mut self) -> Answer {
        for proxy in self.proxies.values_mut() {
            proxy.start().await?;
            proxy.toxics().clear();
        }
        Ok(nothing())
    }

    async fn update(&mut self, name: &str, body: &[u8]) -> Answer {
        let proxy = self.proxies.get_mut(name).ok_or(Refusal::NO_PROXY)?;
        let wanted: ProxyBody = body::read(body)?;
        let settings = proxy.settings().clone();
        let listen = wanted.listen.unwrap_or(settings.listen);
        let upstream = wanted.upstream.unwrap_or(settings.upstream);
        let enabled = wanted.enabled.unwrap_or(proxy.address().is_some());
        proxy.update(&listen, &upstream, enabled).await?;
        Ok(reply(StatusCode::OK, &ProxyView::of(proxy)))
    }

    async fn delete(&mut self, name: &str) -> Answer {
        let mut proxy = self.proxies.remove(name).ok_or(Refusal::NO_PROXY)?;
        proxy.stop().await;
        Ok(nothing())
    }

    fn toxics(&self, name: &str) -> Answer {
        let toxics = self.proxy(name)?.toxics().all();
        let toxics: Vec<Toxic> = toxics.into_iter().map(|(toxic, _)| toxic).collect();
        Ok(reply(StatusCode::OK, &toxics))
    }

    fn put_toxic(&self, name: &str, body: &[u8]) -> Answer {
        let toxics = self.proxy(name)?.toxics();
        let wanted: ToxicBody = body::read(body)?;
        let stream = match wanted.stream.as_deref() {
            None => Stream::Downstream,
            Some(stream) => Stream::of_name(stream).ok_or(Refusal::INVALID_STREAM)?,
        };
        let kind = wanted.kind.as_deref().and_then(Kind::of_type).ok_or(Refusal::INVALID_TYPE)?;
        let kind = kind.with(wanted.attributes.unwrap_or_default()).map_err(Refusal::bad_body)?;
        let mut toxic = Toxic::new(stream, kind);
        toxic.toxicity = wanted.toxicity.unwrap_or(toxic.toxicity);
        toxic.name = wanted.name.filter(|name| !name.is_empty()).unwrap_or(toxic.name);
        if toxic.name.len() > NAME_BYTES_MAX {
            return Err(Refusal::bad_body(format!("a name has {NAME_BYTES_MAX} bytes at the most")));
        }
        toxics.put(toxic.clone())?.leave();
        Ok(reply(StatusCode::OK, &toxic))
    }

    fn toxic(&self, name: &str, toxic: &str) -> Answer {
        let toxic = self.proxy(name)?.toxics().get(toxic).ok_or(Refusal::NO_TOXIC)?;
        Ok(reply(StatusCode::OK, &toxic))
    }

    fn update_toxic(&self, name: &str, toxic: &str, body: &[u8]) -> Answer {
        let toxics = self.proxy(name)?.toxics();
        let own = toxics.get(toxic).ok_or(Refusal::NO_TOXIC)?;
        let wanted: ToxicBody = body::read(body)?;
        let kind = own.kind.with(wanted.attributes.unwrap_or_default()).map_err(Refusal::bad_body)?;
        let toxicity = wanted.toxicity.unwrap_or(own.toxicity);
        let now = toxics.update(Toxic { kind, toxicity, ..own }).ok_or(Refusal::NO_TOXIC)?;
        Ok(reply(StatusCode::OK, &now))
    }

    fn delete_toxic(&self, name: &str, toxic: &str) -> Answer {
        if self.proxy(name)?.toxics().remove(toxic) { Ok(nothing()) } else { Err(Refusal::NO_TOXIC) }
    }

    fn proxy(&self, name: &str) -> Result<&Proxy, Refusal> {
        self.proxies.get(name).ok_or(Refusal::NO_PROXY)
    }
}

/// The parts of a path, decoded. An empty one makes the path unknown.
fn segments(path: &str) -> Vec<String> {
    path.split('/').map(decoded).collect()
}

/// With `%41` read as `A`; what is no such code stays as it is.
fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reply(status: StatusCode, value: &impl Serialize) -> Response<Bytes> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            response(status, JSON, body.into())
        }
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn nothing() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn response(status: StatusCode, content: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    response
}

#[cfg(test)]
mod tests;
