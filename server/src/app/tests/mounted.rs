//! The probes in routers that are not ours.

use super::*;

#[tokio::test]
async fn any_router_takes_the_probes_in_one_line() {
    let probes = || stack().app.probes;
    let whole = Router::new().route("/", get(async || "mine")).fallback_service(probes());
    let below = Router::new().nest_service("/health", probes()).fallback(async || StatusCode::IM_A_TEAPOT);
    let beside = Probes::PATHS.into_iter().fold(Router::new(), |r, path| r.route_service(path, probes()));
    for (router, path, expected) in [
        (&whole, "/readyz/writes", 200),
        (&whole, "/", 200),
        (&whole, "/nowhere", 404),
        (&below, "/health/livez", 200),
        (&below, "/livez", 418),
        (&beside, "/startupz", 200),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path}");
    }
}
