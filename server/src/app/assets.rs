//! The style sheet and the script of the pages: part of the binary, at addresses that name their contents, so that browsers
//! may keep them for ever. There are no other assets, and none from elsewhere.

use axum::{
    body::Body,
    extract::Path,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header};
use sha2::{Digest as _, Sha256};

use crate::{error::Trouble, identity::hexadecimal};

/// The route under which both are found.
pub(crate) const ROUTE: &str = "/assets/{name}";
/// Bytes of the digest in an address; two releases of one file will not share them.
const DIGEST_BYTES: usize = 8;

const STYLE: Asset = Asset {
    stem: "page-",
    ending: ".css",
    content_type: "text/css; charset=utf-8",
    text: include_str!("../../assets/page.css"),
};
const SCRIPT: Asset = Asset {
    stem: "page-",
    ending: ".js",
    content_type: "text/javascript; charset=utf-8",
    text: include_str!("../../assets/page.js"),
};

struct Asset {
    stem: &'static str,
    ending: &'static str,
    content_type: &'static str,
    text: &'static str,
}

impl Asset {
    fn name(&self) -> String {
        let digest = Sha256::digest(self.text);
        let start = digest.get(..DIGEST_BYTES).unwrap_or_default();
        format!("{}{}{}", self.stem, hexadecimal(start), self.ending)
    }
}

/// Where the style sheet is.
pub(super) fn style() -> String {
    format!("/assets/{}", STYLE.name())
}

/// Where the script is.
pub(super) fn script() -> String {
    format!("/assets/{}", SCRIPT.name())
}

/// `GET /assets/{name}`
pub(crate) async fn show(Path(name): Path<String>) -> Response {
    let is_meant = |asset: &&Asset| name.starts_with(asset.stem) && name.ends_with(asset.ending);
    let Some(asset) = [&STYLE, &SCRIPT].into_iter().find(is_meant) else {
        return Trouble::no_such_path().into_response();
    };
    // While releases change, the page may come from one replica and this question to another: its own file will nearly do,
    // and must not be kept under that name.
    let keep = match name == asset.name() {
        true => "public, max-age=31536000, immutable",
        false => "no-store",
    };
    let mut response = Response::new(Body::from(asset.text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_asset_is_kept_for_ever_under_its_own_name_alone() {
        let kept = async |name: String| {
            let response = show(Path(name)).await;
            (response.status().as_u16(), response.headers().get(header::CACHE_CONTROL).cloned())
        };
        for asset in [STYLE, SCRIPT] {
            let (status, keep) = kept(asset.name()).await;
            assert!(
                status == 200 && keep.unwrap().to_str().unwrap().contains("immutable"),
                "{}",
                asset.name()
            );
            let (status, keep) = kept(format!("{}0{}", asset.stem, asset.ending)).await;
            assert_eq!((status, keep.unwrap()), (200, HeaderValue::from_static("no-store")));
        }
        assert_eq!(kept("secrets.txt".to_owned()).await.0, 404);
    }

    /// The policy of the pages lets in nothing from elsewhere; what cannot be loaded should not be asked for.
    #[test]
    fn the_assets_name_nothing_outside() {
        for asset in [STYLE, SCRIPT] {
            for foreign in ["http:", "https:", "@import", "url(//", "eval(", "innerHTML"] {
                assert!(!asset.text.contains(foreign), "{} has {foreign}", asset.name());
            }
        }
    }
}
