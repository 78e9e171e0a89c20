//! The JSON of requests and answers. A field that is null counts as not given, as it does for toxiproxy, because clients
//! send it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::toxic::api::Refusal;
use crate::toxic::kind::Toxic;
use crate::toxic::proxy::Proxy;

/// A proxy in a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProxyBody {
    pub(super) name: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) upstream: Option<String>,
    pub(super) enabled: Option<bool>,
}

/// A toxic in a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToxicBody {
    pub(super) name: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) stream: Option<String>,
    pub(super) toxicity: Option<f64>,
    pub(super) attributes: Option<Map<String, Value>>,
}

/// A proxy in an answer.
#[derive(Debug, Serialize)]
pub(super) struct ProxyView {
    name: String,
    listen: String,
    upstream: String,
    enabled: bool,
    toxics: Vec<Toxic>,
}

impl ProxyView {
    pub(super) fn of(proxy: &Proxy) -> Self {
        let settings = proxy.settings();
        Self {
            name: settings.name.clone(),
            listen: settings.listen.clone(),
            upstream: settings.upstream.clone(),
            enabled: proxy.address().is_some(),
            toxics: proxy.toxics().all().into_iter().map(|(toxic, _)| toxic).collect(),
        }
    }
}

/// The first JSON value of a body. What follows it is not looked at, and no `Content-Type` is asked for.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(body)).map_err(Refusal::bad_body)
}
