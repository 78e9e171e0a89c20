//! The rules as tables: what was asked and answered, whether it is kept, and how it may be used when.

use http::HeaderValue;

use super::*;

/// Wed, 14 Nov 2026 08:00:00 GMT.
const UNIX: Unix = 1_794_643_200;
const RULES: Rules =
    Rules { heuristic_max: Duration::from_secs(3_600), stale_when_away: Duration::from_secs(100) };

type Fields<'a> = &'a [(&'static str, &'a str)];

fn fields(fields: Fields<'_>) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    };
    fields.iter().map(field).collect()
}

fn question(asked: Fields<'_>) -> Question {
    Question::of(&Method::GET, &fields(asked)).unwrap()
}

fn moment(instant: Instant) -> Moment {
    Moment { instant, unix: UNIX }
}

/// Admits an answer of 200 with a length to a GET, both with these fields.
fn admitted(asked: Fields<'_>, answered: Fields<'_>, now: Instant) -> Result<Terms, NotKept> {
    admitted_as(200, asked, answered, now)
}

fn admitted_as(status: u16, asked: Fields<'_>, answered: Fields<'_>, now: Instant) -> Result<Terms, NotKept> {
    let mut headers = fields(answered);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("2"));
    let status = StatusCode::from_u16(status).unwrap();
    admit(&question(asked), (status, &headers), now, moment(now), &RULES)
}

fn cache_control(value: &str) -> Result<Terms, NotKept> {
    admitted(&[], &[("cache-control", value)], Instant::now())
}

#[test]
fn only_what_may_be_kept_is() {
    const LONG: (&str, &str) = ("cache-control", "max-age=60");
    const TAG: (&str, &str) = ("etag", "\"a\"");
    let cases: [(Fields<'_>, Fields<'_>, Result<(), NotKept>); 24] = [
        (&[], &[LONG], Ok(())),
        (&[], &[TAG], Ok(())),
        (&[], &[], Err(NotKept::Useless)),
        (&[], &[("cache-control", "max-age=0")], Err(NotKept::Useless)),
        (&[], &[("cache-control", "no-cache")], Err(NotKept::Useless)),
        (&[], &[("cache-control", "no-cache"), TAG], Ok(())),
        (&[], &[("cache-control", "no-store, max-age=60")], Err(NotKept::NoStore)),
        (&[], &[("cache-control", "no-store, must-understand, max-age=60")], Ok(())),
        (&[("cache-control", "no-store")], &[LONG], Err(NotKept::NoStore)),
        (&[], &[("cache-control", "private, max-age=60")], Err(NotKept::Private)),
        (&[], &[("cache-control", "private=\"x\", max-age=60")], Ok(())),
        (&[], &[LONG, ("set-cookie", "a=b")], Err(NotKept::Private)),
        (&[], &[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")], Err(NotKept::Private)),
        (&[], &[("cache-control", "private=set-cookie, max-age=60"), ("set-cookie", "a=b")], Ok(())),
        (&[("authorization", "x")], &[LONG], Err(NotKept::Private)),
        (&[("authorization", "x")], &[("cache-control", "max-age=60, public")], Ok(())),
        (&[("authorization", "x")], &[("cache-control", "max-age=60, must-revalidate")], Ok(())),
        (&[("authorization", "x")], &[("cache-control", "s-maxage=60")], Ok(())),
        (&[("cookie", "x")], &[LONG], Err(NotKept::Private)),
        (&[("cookie", "x")], &[("cache-control", "max-age=60, must-revalidate")], Err(NotKept::Private)),
        (&[("cookie", "x")], &[("cache-control", "max-age=60, public")], Ok(())),
        (&[("cookie", "x")], &[("cdn-cache-control", "max-age=60")], Ok(())),
        (&[], &[LONG, ("vary", "a"), ("vary", "*")], Err(NotKept::Varies)),
        (&[], &[("cdn-cache-control", "private"), LONG], Err(NotKept::Private)),
    ];
    for (asked, answered, expected) in cases {
        assert_eq!(admitted(asked, answered, Instant::now()).map(|_| ()), expected, "{asked:?} {answered:?}");
    }
}

#[test]
fn a_part_is_never_kept() {
    let now = Instant::now();
    for status in [101, 103, 206, 304] {
        assert_eq!(
            admitted_as(status, &[], &[("cache-control", "max-age=60")], now),
            Err(NotKept::NotWhole),
            "{status}"
        );
    }
    // Neither a length nor chunks: nobody could tell a whole from a half.
    let headers = fields(&[("cache-control", "max-age=60")]);
    let unframed = admit(&question(&[]), (StatusCode::OK, &headers), now, moment(now), &RULES);
    assert_eq!(unframed, Err(NotKept::NotWhole));
    let head = Question::of(&Method::HEAD, &HeaderMap::new()).unwrap();
    let headers = fields(&[("cache-control", "max-age=60"), ("content-length", "2")]);
    assert_eq!(admit(&head, (StatusCode::OK, &headers), now, moment(now), &RULES), Err(NotKept::NotWhole));
}

#[test]
fn a_status_without_a_lifetime_is_kept_only_where_the_rules_know_it() {
    let modified = dates::format(UNIX - 10_000);
    let fields: Fields<'_> = &[("last-modified", &modified)];
    for (status, lifetime) in [(200, 1_000), (404, 1_000), (501, 1_000), (201, 0), (503, 0), (599, 0)] {
        let terms = admitted_as(status, &[], fields, Instant::now()).unwrap();
        assert_eq!(terms.lifetime.as_secs(), lifetime, "{status}");
    }
    let old = dates::format(UNIX - 1_000_000);
    let bounded = admitted(&[], &[("last-modified", &old)], Instant::now()).unwrap();
    assert_eq!(bounded.lifetime, RULES.heuristic_max);
    let public: Fields<'_> = &[("last-modified", &modified), ("cache-control", "public")];
    assert_eq!(admitted_as(599, &[], public, Instant::now()).unwrap().lifetime.as_secs(), 1_000);
}

#[test]
fn the_lifetime_is_the_first_that_is_named() {
    let (later, earlier) = (dates::format(UNIX + 50), dates::format(UNIX - 50));
    let cases: [(Fields<'_>, u64); 8] = [
        (&[("cache-control", "max-age=10, s-maxage=20"), ("expires", &later)], 20),
        (&[("cache-control", "max-age=10"), ("expires", &later)], 10),
        (&[("expires", &later), ("etag", "\"a\"")], 50),
        (&[("expires", &later), ("date", &dates::format(UNIX - 7)), ("etag", "\"a\"")], 57),
        (&[("expires", &earlier), ("etag", "\"a\"")], 0),
        (&[("expires", &later), ("expires", &later), ("etag", "\"a\"")], 0),
        (&[("expires", "0"), ("last-modified", &earlier)], 0),
        (&[("cdn-cache-control", "max-age=5"), ("cache-control", "max-age=9"), ("expires", &later)], 5),
    ];
    for (answered, seconds) in cases {
        assert_eq!(
            admitted(&[], answered, Instant::now()).unwrap().lifetime.as_secs(),
            seconds,
            "{answered:?}"
        );
    }
}

#[test]
fn the_age_is_the_largest_that_is_known() {
    let asked = Instant::now();
    let here = asked + Duration::from_secs(4);
    let old = dates::format(UNIX - 30);
    let cases: [(Fields<'_>, u64); 7] = [
        (&[], 4),
        (&[("age", "10")], 14),
        (&[("age", "10"), ("date", &old)], 30),
        (&[("age", "100"), ("date", &old)], 104),
        (&[("age", "-5")], 4),
        (&[("age", "7.0")], 4),
        (&[("age", "7, 9")], 11),
    ];
    for (answered, seconds) in cases {
        let mut headers = fields(answered);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("2"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1000"));
        let terms = admit(&question(&[]), (StatusCode::OK, &headers), asked, moment(here), &RULES).unwrap();
        assert_eq!(terms.age(here).as_secs(), seconds, "{answered:?}");
        assert_eq!(terms.age(here + Duration::from_secs(9)).as_secs(), seconds + 9, "{answered:?}");
    }
}

#[test]
fn a_kept_answer_is_used_as_both_sides_allow() {
    let now = Instant::now();
    let cases: [(&str, &str, u64, Use); 22] = [
        ("max-age=10", "", 9, Use::Fresh),
        ("max-age=10", "", 10, Use::Ask),
        ("max-age=10, stale-while-revalidate=5", "", 14, Use::StaleWhileRevalidate),
        ("max-age=10, stale-while-revalidate=5", "", 15, Use::Ask),
        ("max-age=10, stale-while-revalidate=5, must-revalidate", "", 12, Use::Ask),
        ("s-maxage=10, stale-while-revalidate=5", "", 12, Use::Ask),
        ("max-age=10, stale-while-revalidate=5, proxy-revalidate", "", 12, Use::Ask),
        ("max-age=10, no-cache", "", 1, Use::Ask),
        ("max-age=10, stale-if-error=60", "", 12, Use::Ask),
        ("max-age=10", "no-cache", 1, Use::Ask),
        ("max-age=10", "no-store", 1, Use::Ask),
        ("max-age=10", "max-age=5", 5, Use::Fresh),
        ("max-age=10", "max-age=5", 6, Use::Ask),
        ("max-age=10", "max-age=0", 1, Use::Ask),
        ("max-age=10", "min-fresh=5", 5, Use::Fresh),
        ("max-age=10", "min-fresh=5", 6, Use::Ask),
        ("max-age=10", "max-stale=5", 15, Use::StaleAsWished),
        ("max-age=10", "max-stale=5", 16, Use::Ask),
        ("max-age=10", "max-stale", 9_999, Use::StaleAsWished),
        ("max-age=10, must-revalidate", "max-stale", 11, Use::Ask),
        ("max-age=10, proxy-revalidate", "max-stale", 11, Use::Ask),
        ("max-age=10, stale-while-revalidate=50", "min-fresh=1", 11, Use::Ask),
    ];
    for (answered, asked, after, expected) in cases {
        let answered: Fields<'_> = &[("cache-control", answered), ("etag", "\"a\"")];
        let terms = admitted(&[], answered, now).unwrap();
        let asked: Fields<'_> = &[("cache-control", asked)];
        let used = terms.judge(&question(asked), now + Duration::from_secs(after));
        assert_eq!(used, expected, "{answered:?} {asked:?} after {after} s");
    }
}

#[test]
fn a_stale_answer_stands_in_only_where_nobody_forbids_it() {
    use Failing::{Away, Erring};
    let now = Instant::now();
    let cases: [(&str, &str, Failing, u64, bool); 16] = [
        ("max-age=10", "", Away, 109, true),
        ("max-age=10", "", Away, 110, false),
        ("max-age=10", "", Erring, 11, false),
        ("max-age=10, stale-if-error=60", "", Erring, 69, true),
        ("max-age=10, stale-if-error=60", "", Erring, 70, false),
        ("max-age=10, stale-if-error=600", "", Away, 609, true),
        ("max-age=10", "stale-if-error=60", Erring, 69, true),
        ("max-age=10", "stale-if-error=60", Erring, 70, false),
        ("max-age=10, must-revalidate, stale-if-error=60", "", Away, 11, false),
        ("max-age=10, proxy-revalidate, stale-if-error=60", "", Erring, 11, false),
        ("s-maxage=10, stale-if-error=60", "", Away, 11, false),
        ("max-age=10, no-cache, stale-if-error=60", "", Away, 5, false),
        ("max-age=10, must-revalidate", "stale-if-error=60", Away, 11, false),
        // A reload asks for something newer; where there is nothing newer it gets what there is.
        ("max-age=10", "no-cache", Away, 5, true),
        ("max-age=10, must-revalidate", "no-cache", Erring, 5, true),
        ("max-age=10, stale-if-error=60", "max-age=0", Erring, 30, true),
    ];
    for (answered, asked, failing, after, expected) in cases {
        let fields: Fields<'_> = &[("cache-control", answered), ("etag", "\"a\"")];
        let terms = admitted(&[], fields, now).unwrap();
        let asked: Fields<'_> = &[("cache-control", asked)];
        let at = now + Duration::from_secs(after);
        let stands_in = terms.may_stand_in(&question(asked), failing, &RULES, at);
        assert_eq!(stands_in, expected, "{answered} {asked:?} {failing:?} after {after} s");
    }
}

#[test]
fn who_shows_credentials_gets_only_what_is_meant_for_everybody() {
    let modified = dates::format(UNIX - 10_000);
    let guessed = admitted(&[], &[("last-modified", &modified)], Instant::now()).unwrap();
    let named = cache_control("max-age=60").unwrap();
    let public = cache_control("max-age=60, public").unwrap();
    let (with_cookie, known) = (question(&[("cookie", "a")]), question(&[("authorization", "a")]));
    assert_eq!((guessed.is_open_to(&with_cookie), guessed.is_open_to(&known)), (false, false));
    assert_eq!((named.is_open_to(&with_cookie), named.is_open_to(&known)), (true, false));
    assert_eq!((public.is_open_to(&with_cookie), public.is_open_to(&known)), (true, true));
    assert!(guessed.is_open_to(&question(&[])));
}

#[test]
fn only_plain_questions_are_asked_for_several_at_once() {
    assert!(question(&[("accept", "text/html")]).may_be_shared());
    for name in ["cookie", "authorization", "range", "if-none-match", "if-modified-since"] {
        assert!(!question(&[(name, "x")]).may_be_shared(), "{name}");
    }
    assert!(!question(&[("cache-control", "no-store")]).may_be_shared());
    assert!(Question::of(&Method::POST, &HeaderMap::new()).is_none());
    assert!(Question::of(&Method::GET, &fields(&[("if-match", "\"a\"")])).is_none());
}

/// Clocks jump; a date in the future once made an answer young for years.
#[test]
fn a_date_from_the_future_makes_nothing_younger() {
    let future = dates::format(UNIX + 1_000_000);
    let terms = admitted(&[], &[("cache-control", "max-age=60"), ("date", &future)], Instant::now()).unwrap();
    assert_eq!(terms.initial_age, Duration::ZERO);
    let expiring =
        admitted(&[], &[("expires", &future), ("date", &future), ("etag", "\"a\"")], Instant::now());
    assert_eq!(expiring.unwrap().lifetime, Duration::ZERO);
}
