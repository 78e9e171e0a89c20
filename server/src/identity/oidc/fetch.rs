//! Where the provider's keys come from: a file, or an address by https. One question, one answer, each bounded; it keeps
//! nothing.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::timeout;

use super::{DOCUMENT_BYTES_MAX, OidcSection};
use crate::outward::{Address, Unusable};

/// For one answer, from the look-up of the name to the last byte.
const FETCH_MAX: Duration = Duration::from_secs(5);

/// Where the keys are.
pub(crate) enum Source {
    File(PathBuf),
    /// Plain text stays on this machine.
    Address(Address),
}

impl Source {
    pub(super) fn of(section: &OidcSection) -> Result<Self, String> {
        const WRONG: &str = "identity.oidc.jwks must be a file, or an address that begins with https://";
        if !section.jwks.contains("://") {
            return Ok(Self::File(PathBuf::from(&section.jwks)));
        }
        let address =
            Address::of(&section.jwks, section.ca_file.clone()).map_err(|unusable| match unusable {
                Unusable::Address => WRONG,
                Unusable::Certificates => {
                    "identity.oidc.ca_file holds no certificate that can be trusted, or cannot be read"
                }
                Unusable::NoBundle => {
                    "identity.oidc.ca_file is needed here: this system has no bundle of certificates"
                }
            })?;
        let is_here = address.host().parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if address.is_plain_text() && !is_here {
            return Err(WRONG.to_owned());
        }
        Ok(Self::Address(address))
    }

    /// The document, or why it is not to be had.
    pub(super) async fn fetch(&self) -> Result<Vec<u8>, &'static str> {
        match timeout(FETCH_MAX, self.unbounded()).await {
            Ok(fetched) => fetched,
            Err(_) => Err("it did not answer in time"),
        }
    }

    async fn unbounded(&self) -> Result<Vec<u8>, &'static str> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
                match read {
                    Ok(Ok(document)) if document.len() <= DOCUMENT_BYTES_MAX => Ok(document),
                    Ok(Ok(_)) => Err("the file is too large"),
                    _ => Err("the file cannot be read"),
                }
            }
            Self::Address(address) => {
                let request = Request::get(address.uri().clone())
                    .header(header::ACCEPT, "application/jwk-set+json, application/json")
                    .body(Full::<Bytes>::default())
                    .map_err(|_| "its address cannot be asked for")?;
                let answer = address.exchange(request, DOCUMENT_BYTES_MAX).await?;
                match answer.status() {
                    StatusCode::OK => Ok(answer.into_body().into()),
                    _ => Err("it did not answer with 200"),
                }
            }
        }
    }
}
