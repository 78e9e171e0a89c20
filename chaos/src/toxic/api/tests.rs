//! The interface, request by request: the status codes and words that clients of toxiproxy compare.

use serde_json::Value;

use super::*;

struct Bench(Api);

impl Bench {
    fn new() -> Self {
        Self(Api::new(1, Reach::Loopback))
    }

    async fn raw(&mut self, method: &str, path: &str, body: &str) -> Response<Bytes> {
        let ask = Ask {
            method: method.parse().unwrap(),
            path: path.to_owned(),
            user_agent: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        self.0.answer(ask).await
    }

    async fn ask(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let response = self.raw(method, path, &body.to_string()).await;
        let value = serde_json::from_slice(response.body()).unwrap_or(Value::Null);
        (response.status().as_u16(), value)
    }

    /// A proxy on a free port; gives where it listens.
    async fn proxy(&mut self, name: &str) -> String {
        let body = json!({"name": name, "listen": "localhost:0", "upstream": "localhost:1"});
        let (status, proxy) = self.ask("POST", "/proxies", body).await;
        assert_eq!(status, 201, "{proxy}");
        proxy["listen"].as_str().unwrap().to_owned()
    }
}

fn refused(status: u16, error: &str) -> (u16, Value) {
    (status, json!({"error": error, "status": status}))
}

#[tokio::test]
async fn a_proxy_is_made_shown_listed_and_deleted() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask("GET", "/proxies", Value::Null).await, (200, json!({})));
    let listen = bench.proxy("db").await;
    assert!(listen.starts_with("127.0.0.1:") && !listen.ends_with(":0"), "{listen}");
    let shown = json!({
        "name": "db", "listen": listen, "upstream": "localhost:1", "enabled": true, "toxics": [],
    });
    assert_eq!(bench.ask("GET", "/proxies/db", Value::Null).await, (200, shown.clone()));
    assert_eq!(bench.ask("GET", "/proxies", Value::Null).await, (200, json!({"db": shown})));
    let body = json!({"name": "db", "listen": "localhost:0", "upstream": "localhost:1"});
    assert_eq!(bench.ask("POST", "/proxies", body).await, refused(409, "proxy already exists"));
    let body = json!({"name": "other", "listen": listen, "upstream": "localhost:1"});
    let taken = format!("listen tcp {listen}: bind: address already in use");
    assert_eq!(bench.ask("POST", "/proxies", body.clone()).await, refused(500, &taken));
    assert_eq!(bench.ask("DELETE", "/proxies/db", Value::Null).await, (204, Value::Null));
    assert_eq!(bench.ask("DELETE", "/proxies/db", Value::Null).await, refused(404, "proxy not found"));
    assert_eq!(bench.ask("POST", "/proxies", body).await.0, 201, "the port is free again");
}

#[tokio::test]
async fn a_proxy_needs_a_name_an_upstream_and_to_stay_on_the_loopback() {
    let mut bench = Bench::new();
    let cases = [
        (json!({"name": "", "upstream": ""}), 400, "missing required field: name"),
        (json!({"name": "a", "upstream": null}), 400, "missing required field: upstream"),
        (
            json!({"name": "a", "upstream": "localhost:1", "listen": "local373"}),
            500,
            "listen tcp: address local373: missing port in address",
        ),
        (
            json!({"name": "a", "upstream": "192.0.2.1:5432"}),
            403,
            "listen tcp: 192.0.2.1:5432 is not on the loopback of this machine; start with --allow-remote to go there",
        ),
        (
            json!({"name": "a", "upstream": "localhost:1", "listen": "0.0.0.0:0"}),
            403,
            "listen tcp: 0.0.0.0:0 is not on the loopback of this machine; start with --allow-remote to go there",
        ),
    ];
    for (body, status, error) in cases {
        assert_eq!(bench.ask("POST", "/proxies", body).await, refused(status, error));
    }
    for body in ["", "{", "5", "{\"name\": 5}"] {
        let response = bench.raw("POST", "/proxies", body).await;
        assert_eq!(response.status(), 400, "{body}");
        assert!(response.body().starts_with(b"{\"error\":\"bad request body: "), "{response:?}");
    }
    assert_eq!(bench.ask("GET", "/proxies", Value::Null).await, (200, json!({})), "none is left behind");
}

#[tokio::test]
async fn a_proxy_is_taken_down_and_brought_back_and_reset_brings_back_all() {
    let mut bench = Bench::new();
    let listen = bench.proxy("db").await;
    for (method, enabled) in [("POST", false), ("PATCH", true), ("PATCH", false)] {
        let (status, proxy) = bench.ask(method, "/proxies/db", json!({"enabled": enabled})).await;
        assert_eq!((status, &proxy["enabled"], &proxy["listen"]), (200, &json!(enabled), &json!(listen)));
        assert_eq!(std::net::TcpStream::connect(&listen).is_ok(), enabled);
    }
    assert_eq!(bench.ask("POST", "/proxies/db/toxics", json!({"type": "noop"})).await.0, 200);
    assert_eq!(bench.ask("POST", "/reset", Value::Null).await, (204, Value::Null));
    let (_, proxy) = bench.ask("GET", "/proxies/db", Value::Null).await;
    assert_eq!((&proxy["enabled"], &proxy["toxics"]), (&json!(true), &json!([])));
    let missing = bench.ask("PATCH", "/proxies/no", json!({"enabled": true})).await;
    assert_eq!(missing, refused(404, "proxy not found"));
}

#[tokio::test]
async fn a_proxy_can_begin_disabled_and_shows_its_address_as_it_was_given() {
    let mut bench = Bench::new();
    let body = json!({"name": "db", "listen": "localhost:0", "upstream": "localhost:1", "enabled": false});
    let (status, proxy) = bench.ask("POST", "/proxies", body).await;
    assert_eq!((status, &proxy["enabled"], &proxy["listen"]), (201, &json!(false), &json!("localhost:0")));
    let (_, proxy) = bench.ask("POST", "/proxies/db", json!({"enabled": true})).await;
    assert!(proxy["listen"].as_str().unwrap().starts_with("127.0.0.1:"), "{proxy}");
}

#[tokio::test]
async fn a_toxic_is_put_on_shown_changed_and_taken_off() {
    let mut bench = Bench::new();
    bench.proxy("db").await;
    let body = json!({"type": "latency", "attributes": {"latency": 100}});
    let toxic = |toxicity: f64, latency: i64| {
        json!({
            "name": "latency_downstream", "type": "latency", "stream": "downstream", "toxicity": toxicity,
            "attributes": {"latency": latency, "jitter": 0},
        })
    };
    assert_eq!(bench.ask("POST", "/proxies/db/toxics", body.clone()).await, (200, toxic(1.0, 100)));
    let again = bench.ask("POST", "/proxies/db/toxics", body).await;
    assert_eq!(again, refused(409, "toxic already exists"));
    let path = "/proxies/db/toxics/latency_downstream";
    assert_eq!(bench.ask("GET", path, Value::Null).await, (200, toxic(1.0, 100)));
    let change = json!({"attributes": {"latency": 1_000}, "toxicity": 0.5, "stream": "upstream"});
    assert_eq!(bench.ask("PATCH", path, change).await, (200, toxic(0.5, 1_000)));
    let change = json!({"attributes": {"latency": 7}});
    assert_eq!(bench.ask("POST", path, change).await, (200, toxic(0.5, 7)));
    let (_, proxy) = bench.ask("GET", "/proxies/db", Value::Null).await;
    assert_eq!(proxy["toxics"], json!([toxic(0.5, 7)]));
    assert_eq!(bench.ask("GET", "/proxies/db/toxics", Value::Null).await, (200, json!([toxic(0.5, 7)])));
    assert_eq!(bench.ask("DELETE", path, Value::Null).await, (204, Value::Null));
    for method in ["GET", "PATCH", "DELETE"] {
        assert_eq!(bench.ask(method, path, json!({})).await, refused(404, "toxic not found"), "{method}");
    }
}

#[tokio::test]
async fn wrong_toxics_are_refused_in_the_words_of_toxiproxy() {
    let mut bench = Bench::new();
    bench.proxy("db").await;
    let stream = "stream was invalid, can be either upstream or downstream";
    let cases = [
        (json!({"type": "latency", "stream": "walrus"}), 400, stream),
        (json!({"type": "latency", "stream": ""}), 400, stream),
        (json!({"type": "down"}), 400, "invalid toxic type"),
        (json!({}), 400, "invalid toxic type"),
    ];
    for (body, status, error) in cases {
        assert_eq!(bench.ask("POST", "/proxies/db/toxics", body).await, refused(status, error));
    }
    let wrong = json!({"type": "latency", "attributes": {"latency": "long"}});
    let (status, answer) = bench.ask("POST", "/proxies/db/toxics", wrong).await;
    assert_eq!((status, &answer["status"]), (400, &json!(400)));
    assert!(answer["error"].as_str().unwrap().starts_with("bad request body: "), "{answer}");
    let missing = bench.ask("POST", "/proxies/no/toxics", json!({"type": "noop"})).await;
    assert_eq!(missing, refused(404, "proxy not found"));
}

#[tokio::test]
async fn null_counts_as_not_given_and_streams_are_read_in_any_case() {
    let mut bench = Bench::new();
    bench.proxy("db").await;
    let body = json!({
        "name": null, "type": "timeout", "stream": "Upstream", "toxicity": null, "attributes": null,
    });
    let (status, toxic) = bench.ask("POST", "/proxies/db/toxics", body).await;
    let expected = json!({
        "name": "timeout_upstream", "type": "timeout", "stream": "upstream", "toxicity": 1.0,
        "attributes": {"timeout": 0},
    });
    assert_eq!((status, toxic), (200, expected));
}

#[tokio::test]
async fn populate_adds_keeps_and_replaces() {
    let mut bench = Bench::new();
    let listen = bench.proxy("one").await;
    let port = listen.rsplit(':').next().unwrap();
    bench.ask("POST", "/proxies/one/toxics", json!({"type": "noop"})).await;
    let body = json!([
        // The same address in other words: it stays, with its toxic.
        {"name": "one", "listen": format!("localhost:{port}"), "upstream": "localhost:1", "enabled": true},
        {"name": "two", "listen": "127.0.0.1:0", "upstream": "localhost:2"},
        {"name": "off", "listen": "127.0.0.1:0", "upstream": "localhost:2", "enabled": false},
    ]);
    let (status, answer) = bench.ask("POST", "/populate", body).await;
    assert_eq!(status, 201, "{answer}");
    let proxies = answer["proxies"].as_array().unwrap();
    let names: Vec<&Value> = proxies.iter().map(|proxy| &proxy["name"]).collect();
    assert_eq!(names, [&json!("one"), &json!("two"), &json!("off")], "in the order of the request");
    assert_eq!(proxies[0]["toxics"].as_array().unwrap().len(), 1);
    assert_eq!((&proxies[1]["enabled"], &proxies[2]["enabled"]), (&json!(true), &json!(false)));
    let body = json!([{"name": "one", "listen": listen, "upstream": "localhost:3"}]);
    let (_, answer) = bench.ask("POST", "/populate", body).await;
    assert_eq!(answer["proxies"][0]["upstream"], "localhost:3");
    assert_eq!(answer["proxies"][0]["toxics"], json!([]), "another upstream is another proxy");
}

#[tokio::test]
async fn populate_opens_nothing_where_a_field_is_missing_and_stops_at_what_cannot_be_opened() {
    let mut bench = Bench::new();
    let good = |name: &str| json!({"name": name, "listen": "127.0.0.1:0", "upstream": "localhost:1"});
    let (status, answer) = bench.ask("POST", "/populate", json!([good("one"), {"name": ""}])).await;
    let expected = json!({"error": "missing required field: name at proxy 2", "status": 400, "proxies": []});
    assert_eq!((status, answer), (400, expected));
    assert_eq!(bench.ask("GET", "/proxies", Value::Null).await.1, json!({}));
    let bad = json!({"name": "two", "listen": "local373", "upstream": "localhost:1"});
    let (status, answer) = bench.ask("POST", "/populate", json!([good("one"), bad, good("three")])).await;
    assert_eq!((status, answer["proxies"].as_array().unwrap().len()), (500, 1));
    let (_, all) = bench.ask("GET", "/proxies", Value::Null).await;
    assert_eq!(all.as_object().unwrap().keys().collect::<Vec<_>>(), ["one"]);
}

#[tokio::test]
async fn unknown_paths_and_methods_have_their_codes_and_names_are_decoded() {
    let mut bench = Bench::new();
    for path in ["/", "/nothing", "/proxies/a/b", "/proxies/a/toxics/b/c", "proxies"] {
        assert_eq!(bench.raw("GET", path, "").await.status(), 404, "{path}");
    }
    for (method, path) in
        [("PUT", "/proxies"), ("GET", "/reset"), ("POST", "/version"), ("PUT", "/proxies/a")]
    {
        assert_eq!(bench.raw(method, path, "").await.status(), 405, "{method} {path}");
    }
    bench.proxy("my db/é").await;
    assert_eq!(bench.raw("GET", "/proxies/my%20db%2F%c3%A9", "").await.status(), 200);
    assert_eq!(decoded("50%"), "50%");
    assert_eq!(decoded("%zz%4"), "%zz%4");
}

#[tokio::test]
async fn browsers_are_refused_and_the_version_is_that_of_the_interface() {
    let mut bench = Bench::new();
    let browser = Ask {
        method: Method::GET,
        path: "/proxies".to_owned(),
        user_agent: Some("Mozilla/5.0 (X11)".to_owned()),
        body: Bytes::new(),
    };
    let response = bench.0.answer(browser).await;
    assert_eq!((response.status().as_u16(), &response.body()[..]), (403, &b"User agent not allowed\n"[..]));
    assert_eq!(bench.ask("GET", "/version", Value::Null).await, (200, json!({"version": VERSION})));
}

#[tokio::test]
async fn metrics_name_proxies_and_toxics() {
    let mut bench = Bench::new();
    let listen = bench.proxy("d\"b").await;
    bench.ask("POST", "/proxies/d%22b/toxics", json!({"type": "noop"})).await;
    let response = bench.raw("GET", "/metrics", "").await;
    let text = std::str::from_utf8(response.body()).unwrap();
    let bytes = format!(
        "toxiproxy_proxy_received_bytes_total{{direction=\"upstream\",proxy=\"d\\\"b\",listener=\"{listen}\",upstream=\"localhost:1\"}} 0\n"
    );
    assert!(text.contains(&bytes), "{text}");
    assert!(
        text.contains("toxiproxy_toxic_streams_total{proxy=\"d\\\"b\",toxic=\"noop_downstream\""),
        "{text}"
    );
}

#[tokio::test]
async fn the_number_of_proxies_is_bounded() {
    let mut bench = Bench::new();
    let many: Vec<Value> = (0..=PROXIES_MAX)
        .map(|number| json!({"name": number.to_string(), "upstream": "localhost:1", "enabled": false}))
        .collect();
    let (status, answer) = bench.ask("POST", "/populate", Value::Array(many)).await;
    assert_eq!((status, answer["proxies"].as_array().unwrap().len()), (507, PROXIES_MAX));
}
