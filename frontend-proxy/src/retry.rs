//! Whether a request may be sent a second time. Pure: what the request is and how the attempt ended go in.
//!
//! The budget and the time that is left are asked by the caller.

use http::{HeaderMap, Method, StatusCode};

use crate::{headers::IDEMPOTENCY_KEY, upstream::AttemptError};

/// Attempts for one request. The second is for anything the rules allow; the third only where nothing was ever sent.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// What a request is, as far as sending it again goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nature {
    /// GET, HEAD: an answer may be thrown away and asked for again.
    pub(crate) is_read: bool,
    /// Sending it twice does what sending it once does: by its method, or by its idempotency key.
    pub(crate) is_idempotent: bool,
    /// POST, PUT, PATCH, DELETE: the answer says what became of it.
    pub(crate) is_write: bool,
    /// It carries an idempotency key.
    pub(crate) has_key: bool,
}

impl Nature {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        let is_write = matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
        let by_method = is_read || matches!(*method, Method::OPTIONS | Method::PUT | Method::DELETE);
        let has_key = headers.get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty());
        Self { is_read, is_idempotent: by_method || has_key, is_write, has_key }
    }
}

/// What is to be done after an attempt without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: the request ends here.
    GiveUp,
    /// Another attempt, but not at the same backend: it would meet the same wall.
    Elsewhere,
    /// Another attempt on a fresh connection, at another backend if there is one.
    Anywhere,
}

/// After `attempt` (the first is 1) ended with `error`, where `is_replayable` says whether the body can be sent again.
pub(crate) fn after_error(nature: Nature, attempt: u32, error: AttemptError, is_replayable: bool) -> Next {
    let is_first = attempt == 1;
    match error {
        AttemptError::Dial(_) if is_replayable && attempt < ATTEMPTS_MAX => Next::Elsewhere,
        AttemptError::Closed { sent: false, .. } if is_replayable && attempt < ATTEMPTS_MAX => Next::Anywhere,
        AttemptError::Closed { .. } if is_first && nature.is_idempotent && is_replayable => Next::Anywhere,
        // Repeating a write that may still be carried out there takes a key: a method alone promises nothing about
        // two of them at once.
        AttemptError::Silent { .. } if is_first && is_replayable && (nature.is_read || nature.has_key) => {
            Next::Elsewhere
        }
        AttemptError::Dial(_)
        | AttemptError::Silent { .. }
        | AttemptError::Closed { .. }
        | AttemptError::Invalid
        | AttemptError::TimedOut { .. }
        | AttemptError::Upload(_)
        | AttemptError::UploadIdle => Next::GiveUp,
    }
}

/// Whether an answer is worth asking another backend: a gateway's way of saying "not now", to a read.
pub(crate) fn after_answer(nature: Nature, attempt: u32, status: StatusCode, is_replayable: bool) -> bool {
    attempt == 1
        && nature.is_read
        && is_replayable
        && matches!(
            status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::DialError;

    const CLOSED: AttemptError = AttemptError::Closed { sent: true, reused: true };
    const UNSENT: AttemptError = AttemptError::Closed { sent: false, reused: true };
    const REFUSED: AttemptError = AttemptError::Dial(DialError::Refused);

    fn nature(method: Method, key: Option<&str>) -> Nature {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, key.parse().unwrap());
        }
        Nature::of(&method, &headers)
    }

    #[test]
    fn a_post_without_a_key_is_never_sent_twice() {
        let post = nature(Method::POST, None);
        assert_eq!(after_error(post, 1, CLOSED, true), Next::GiveUp);
        assert_eq!(after_error(nature(Method::PATCH, None), 1, CLOSED, true), Next::GiveUp);
        // An empty key identifies nothing.
        assert_eq!(after_error(nature(Method::POST, Some("")), 1, CLOSED, true), Next::GiveUp);
        assert!(!after_answer(post, 1, StatusCode::SERVICE_UNAVAILABLE, true));
    }

    #[test]
    fn what_never_left_may_go_elsewhere_whatever_it_is() {
        let post = nature(Method::POST, None);
        assert_eq!(after_error(post, 1, REFUSED, true), Next::Elsewhere);
        assert_eq!(after_error(post, 2, REFUSED, true), Next::Elsewhere);
        assert_eq!(after_error(post, 3, REFUSED, true), Next::GiveUp);
        assert_eq!(after_error(post, 1, UNSENT, true), Next::Anywhere);
        assert_eq!(after_error(post, 1, UNSENT, false), Next::GiveUp);
    }

    #[test]
    fn what_can_be_repeated_is_repeated_once() {
        for nature in [
            nature(Method::GET, None),
            nature(Method::HEAD, None),
            nature(Method::OPTIONS, None),
            nature(Method::PUT, None),
            nature(Method::DELETE, None),
            nature(Method::POST, Some("k")),
        ] {
            assert_eq!(after_error(nature, 1, CLOSED, true), Next::Anywhere, "{nature:?}");
            assert_eq!(after_error(nature, 2, CLOSED, true), Next::GiveUp, "{nature:?}");
            assert_eq!(after_error(nature, 1, CLOSED, false), Next::GiveUp, "{nature:?}");
            let late = AttemptError::TimedOut { sent: true, by_caller: false };
            assert_eq!(after_error(nature, 1, late, true), Next::GiveUp, "{nature:?}");
            assert_eq!(after_error(nature, 1, AttemptError::Invalid, true), Next::GiveUp, "{nature:?}");
        }
    }

    #[test]
    fn a_backend_that_fell_silent_may_still_carry_a_write_out() {
        let silent = AttemptError::Silent { sent: true };
        for (nature, next) in [
            (nature(Method::GET, None), Next::Elsewhere),
            (nature(Method::POST, Some("k")), Next::Elsewhere),
            (nature(Method::PUT, None), Next::GiveUp),
            (nature(Method::POST, None), Next::GiveUp),
        ] {
            assert_eq!(after_error(nature, 1, silent, true), next, "{nature:?}");
            assert_eq!(after_error(nature, 2, silent, true), Next::GiveUp, "{nature:?}");
        }
    }

    #[test]
    fn only_a_read_asks_again_after_an_answer() {
        let get = nature(Method::GET, None);
        for (status, again) in
            [(502, true), (503, true), (504, true), (500, false), (429, false), (404, false)]
        {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(after_answer(get, 1, status, true), again, "{status}");
            assert!(!after_answer(get, 2, status, true));
            assert!(!after_answer(nature(Method::PUT, Some("k")), 1, status, true));
        }
    }
}
