//! The directives as tables: what is written, and what it means here.

use super::*;

fn answer(lines: &[&str]) -> AnswerControl {
    AnswerControl::of(&fields_of(header::CACHE_CONTROL, lines))
}

fn targeted(lines: &[&str]) -> AnswerControl {
    let mut headers = fields_of(CDN_CACHE_CONTROL, lines);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    AnswerControl::of(&headers)
}

fn fields_of(name: HeaderName, lines: &[&str]) -> HeaderMap {
    lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect()
}

#[test]
fn a_lifetime_is_digits_and_nothing_else() {
    for (line, meant) in [
        ("max-age=3600", Some(3_600)),
        ("MaX-aGe=3600", Some(3_600)),
        ("max-age=003600", Some(3_600)),
        ("max-age=\"3600\"", Some(3_600)),
        ("foobar, max-age=3600", Some(3_600)),
        ("max-age=2147483648", Some(SECONDS_MAX)),
        ("max-age=99999999999999999999999999", Some(SECONDS_MAX)),
        ("max-age=-3600", Some(0)),
        ("max-age='3600'", Some(0)),
        ("max-age =3600", Some(0)),
        ("max-age= 3600", Some(0)),
        ("max-age=3600.0", Some(0)),
        ("max-age=a3600", Some(0)),
        ("max-age", Some(0)),
        ("max-age=", Some(0)),
        ("max-age=5, max-age=5", Some(5)),
        ("max-age=1800, max-age=1", Some(0)),
        ("extension=\"max-age=3600\", max-age=1", Some(1)),
        ("max-age=1, extension=\"max-age=3600\"", Some(1)),
        ("extension=\"\\\", max-age=3600\"", None),
        ("", None),
    ] {
        assert_eq!(answer(&[line]).max_age, meant, "{line}");
    }
    assert_eq!(answer(&["max-age=3600", "s-maxage=1"]).s_maxage, Some(1));
}

#[test]
fn an_open_quote_hides_nothing() {
    assert!(answer(&["max-age=60, extension=\"no-store"]).no_store);
    assert!(answer(&["No-StOrE"]).no_store && answer(&["no-store=\"why\""]).no_store);
}

#[test]
fn fields_are_withheld_and_the_rest_may_be_kept() {
    let control = answer(&["no-cache=\"a, B\"", "private=\"set-cookie\", max-age=5"]);
    let names: Vec<_> = control.withheld.iter().map(HeaderName::as_str).collect();
    assert_eq!(names, ["a", "b", "set-cookie"]);
    assert!(!control.no_cache && !control.private);
    assert!(answer(&["no-cache"]).no_cache && answer(&["private"]).private);
    // What names no field means all of them.
    assert!(answer(&["private=\"\""]).private && answer(&["no-cache=\"a b\""]).no_cache);
}

#[test]
fn a_targeted_field_replaces_the_others_where_it_is_valid() {
    let control = targeted(&["max-age=10000"]);
    assert!(control.is_targeted && !control.no_store && control.max_age == Some(10_000));
    assert_eq!(targeted(&["max-age=99999999999"]).max_age, Some(SECONDS_MAX));
    assert_eq!(targeted(&["max-age=5;x=1, foo=(a \"b\");c, bar=?0"]).max_age, Some(5));
    assert_eq!(targeted(&["foobar", "max-age=7"]).max_age, Some(7));
    assert!(targeted(&["private"]).private && targeted(&["no-cache"]).no_cache);
    for line in [
        "max-age=10000, &&&&&",
        "max-age=\"10000\"",
        "max-age",
        "MaX-aGe=3600",
        "max-age =100",
        "max-age= 100",
        "max-age=10,",
        "",
        "no-store=5, max-age=5",
    ] {
        assert!(targeted(&[line]).no_store, "{line}");
    }
}

#[test]
fn what_a_request_asks_is_read_cautiously() {
    let of = |line: &str| RequestControl::of(&fields_of(header::CACHE_CONTROL, &[line]));
    assert_eq!(of("max-stale").max_stale, Some(SECONDS_MAX));
    assert_eq!((of("max-stale=5").max_stale, of("max-stale=x").max_stale), (Some(5), None));
    assert_eq!((of("max-age=x").max_age, of("min-fresh=x").min_fresh), (Some(0), Some(SECONDS_MAX)));
    assert_eq!(of("stale-if-error=60").stale_if_error, Some(60));
    assert!(of("only-if-cached").only_if_cached && of("NO-CACHE").no_cache && of("no-store").no_store);
    assert_eq!(of("nothing-to-see-here"), RequestControl::default());
}
