//! The query parameters of a list, to the question they ask. It reads no header and no body.

use axum::extract::Query;
use http::Uri;
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::shown;
use crate::{error::Trouble, identity::Principal, todo::PageQuery};

/// Items of a page where nobody says how many.
pub(crate) const PAGE_LIMIT: u8 = 50;
pub(crate) const PAGE_LIMIT_MAX: u8 = 100;

/// The parameters of a list that `owner` asks for.
pub(crate) fn page_query(owner: Principal, uri: &Uri) -> Result<PageQuery, Trouble> {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Trouble::bad_request("the query of the address cannot be understood"))?;
    let mut query = PageQuery { owner, limit: PAGE_LIMIT, ..PageQuery::default() };
    let mut known = Vec::new();
    for (name, value) in &parameters {
        if known.contains(&name) {
            return Err(Trouble::bad_request(format!("the parameter `{}` is given twice", shown(name))));
        }
        known.push(name);
        match name.as_str() {
            "limit" => query.limit = limit(value)?,
            "after" => {
                let wrong = "the parameter `after` is not the `next` of an earlier page";
                query.after = Some(value.parse().map_err(|_| Trouble::bad_request(wrong))?);
            }
            "done" => {
                let wrong = "the parameter `done` must be true or false";
                query.done = Some(value.parse().map_err(|_| Trouble::bad_request(wrong))?);
            }
            "from" => query.from = Some(instant(value, "from")?),
            "to" => query.to = Some(instant(value, "to")?),
            _ => {
                return Err(Trouble::bad_request(format!(
                    "the parameter `{}` is not known here",
                    shown(name)
                )));
            }
        }
    }
    Ok(query)
}

fn limit(text: &str) -> Result<u8, Trouble> {
    let limit = text.parse().ok().filter(|limit| (1..=PAGE_LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        Trouble::bad_request(format!("the parameter `limit` must be a number from 1 to {PAGE_LIMIT_MAX}"))
    })
}

fn instant(text: &str, name: &str) -> Result<OffsetDateTime, Trouble> {
    // A plus sign that was not escaped arrives as a space.
    let parsed = OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).ok();
    // An offset can carry a time out of the calendar, where neither the driver nor the database can follow.
    let in_utc = parsed.and_then(|time| time.checked_to_offset(UtcOffset::UTC));
    in_utc.filter(|time| (0..=9999).contains(&time.year())).ok_or_else(|| {
        Trouble::bad_request(format!("the parameter `{name}` must be a time such as 2026-11-20T12:00:00Z"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYBODY: Principal = Principal::EVERYBODY;

    #[test]
    fn list_parameters_are_read() {
        let query = page_query(
            EVERYBODY,
            &Uri::from_static(
                "/api/todos?limit=7&done=true&from=2026-01-01T00:00:00%2B01:00&to=2026-01-02T00:00:00+01:00",
            ),
        );
        let query = query.unwrap();
        assert_eq!((query.limit, query.done), (7, Some(true)));
        assert_eq!(query.to.unwrap() - query.from.unwrap(), time::Duration::DAY);
        assert_eq!(page_query(EVERYBODY, &Uri::from_static("/api/todos")).unwrap().limit, PAGE_LIMIT);
    }

    /// A time in the last minute of the calendar, west of Greenwich, lies beyond it in UTC: the driver panicked over it, and
    /// the request took its connection with it.
    #[test]
    fn times_are_read_up_to_the_ends_of_the_calendar_and_no_further() {
        let to = |text: &str| page_query(EVERYBODY, &format!("/api/todos?to={text}").parse().unwrap());
        for good in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59%2B00:01", "0000-01-01T00:00:00Z"] {
            let time = to(good).unwrap().to.unwrap();
            assert_eq!(time.offset(), UtcOffset::UTC, "{good}");
        }
        for beyond in
            ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00%2B00:01"]
        {
            let refused = to(beyond).unwrap_err();
            assert_eq!(refused.kind.status, 400, "{beyond}");
            assert!(refused.detail.unwrap().contains("`to`"), "{beyond}");
        }
    }

    #[test]
    fn each_wrong_parameter_is_named() {
        for (query, name) in [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=many", "limit"),
            ("after=canary", "after"),
            ("done=maybe", "done"),
            ("from=yesterday", "from"),
            ("to=2026-13-01T00:00:00Z", "to"),
            ("to=9999-12-31T23:59:59-00:01", "to"),
            ("from=0000-01-01T00:00:00%2B00:01", "from"),
            ("colour=red", "colour"),
            ("limit=1&limit=2", "limit"),
        ] {
            let uri: Uri = format!("/api/todos?{query}").parse().unwrap();
            let detail = page_query(EVERYBODY, &uri).unwrap_err().detail.unwrap();
            assert!(detail.contains(&format!("`{name}`")) && !detail.contains("canary"), "{query}: {detail}");
        }
    }
}
