//! The closed catalogue of problems: what each means, whether a write had its effect, what to do. A problem that is not in
//! it cannot be answered, because nothing else makes a [`Kind`]. Which error becomes which problem is decided in `error`.

use http::StatusCode;

/// One type of problem. Its address is `/problems/{slug}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The last part of its address; stable.
    pub(crate) slug: &'static str,
    /// The status it is always answered with.
    pub(crate) status: StatusCode,
    /// The same for all of its type.
    pub(crate) title: &'static str,
    /// What happened.
    meaning: &'static str,
    effect: Effect,
    /// What its reader can do.
    advice: &'static str,
}

/// Whether a write that was answered so took effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It changed nothing and never will.
    None,
    /// Nobody knows yet, unless the member `outcome` does.
    Unknown,
}

impl Kind {
    /// Where it is explained: the `type` of its documents.
    pub(crate) fn address(&self) -> String {
        format!("/problems/{}", self.slug)
    }

    /// Whether it passes by itself, and its answers say when.
    pub(crate) fn passes(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
    }

    /// What happened, in sentences.
    pub(crate) fn meaning(&self) -> &'static str {
        self.meaning
    }

    /// Whether a write had its effect, in a word for programs.
    pub(crate) fn effect(&self) -> &'static str {
        match self.effect {
            Effect::None => "none",
            Effect::Unknown => "unknown",
        }
    }

    /// The same in sentences.
    pub(crate) fn effect_in_words(&self) -> &'static str {
        match self.effect {
            Effect::None => {
                "A write that is answered so changed nothing, and will not change anything later."
            }
            Effect::Unknown => {
                "A write that is answered so may have had its effect, unless the member `outcome` says `rejected`."
            }
        }
    }

    /// What to do, in sentences.
    pub(crate) fn advice(&self) -> &'static str {
        self.advice
    }

    /// The one with this last part of its address.
    pub(crate) fn named(slug: &str) -> Option<&'static Self> {
        ALL.iter().copied().find(|kind| kind.slug == slug)
    }
}

/// Each entry becomes a constant and a member of [`ALL`], so that none can be left out.
macro_rules! catalogue {
    ($($name:ident: $slug:literal, $status:ident, $effect:ident, $title:literal, $meaning:literal, $advice:literal;)*) => {
        $(
            pub(crate) static $name: Kind = Kind {
                slug: $slug,
                status: StatusCode::$status,
                title: $title,
                meaning: $meaning,
                effect: Effect::$effect,
                advice: $advice,
            };
        )*

        /// Every problem there is.
        pub(crate) static ALL: &[&Kind] = &[$(&$name),*];
    };
}

catalogue! {
    BAD_REQUEST: "bad-request", BAD_REQUEST, None,
        "the request cannot be understood",
        "A part of the request, such as a parameter, a header or the body, is not what this address takes. The member `detail` names the part and what it must be.",
        "Mend what `detail` names. The same request will be refused again.";
    CONDITION_NOT_UNDERSTOOD: "condition-not-understood", BAD_REQUEST, None,
        "the request makes a condition that is not understood here",
        "If-Match or If-None-Match was sent with a method, or to an address, that cannot check it. Nothing is done rather than done without its condition.",
        "Send If-Match with GET, PUT and DELETE of one todo, and If-None-Match with GET. A todo is created once by its Idempotency-Key, not by If-None-Match.";
    SIGN_IN_NEEDED: "sign-in-needed", UNAUTHORIZED, None,
        "it is not known who asks",
        "This server tells principals apart, and the request showed no token, or one that is not known or no longer.",
        "Send a token in the header Authorization, after the word Bearer; with a browser, sign in.";
    OTHER_SITE: "other-site", FORBIDDEN, None,
        "the form came from another site",
        "A browser sent a form, or a request with the cookie of this site, from a page of another site. It is refused, because the person in front of it may know nothing of it.",
        "Use the form on this site. Programs send a token, and no cookie.";
    NO_SUCH_PATH: "no-such-path", NOT_FOUND, None,
        "there is nothing at this address",
        "No resource has this address.",
        "The addresses that there are stand at /docs.";
    NO_SUCH_TODO: "no-such-todo", NOT_FOUND, None,
        "there is no such todo",
        "There is no todo with this id, or it is somebody else's. A stale answer says so by Ridethrough-Freshness: then it may have been created a moment ago.",
        "Do not repeat it. Look at the list for what there is.";
    NO_SUCH_WRITE: "no-such-write", NOT_FOUND, None,
        "no write was accepted with this key",
        "No write under this Idempotency-Key was accepted, or it was so long ago that it is forgotten.",
        "If you sent a write under this key, send it again with the same key: it is done once.";
    WRONG_METHOD: "wrong-method", METHOD_NOT_ALLOWED, None,
        "this address does not know that method",
        "The address exists, and does not know the method of the request.",
        "Use one of the methods that the header Allow lists.";
    BODY_TOO_SLOW: "body-too-slow", REQUEST_TIMEOUT, None,
        "the body did not arrive in time",
        "The head of the request arrived, and its body did not within the time for it.",
        "Send the body at once. Repeat the request with the same Idempotency-Key.";
    REFUSED: "refused", CONFLICT, None,
        "the write was accepted earlier and could not be applied",
        "A write under this Idempotency-Key had been accepted while the database was away. When it was back, the write turned out to be impossible.",
        "Ask /api/writes/{key} for the reason. Decide again, and use a new key.";
    SUPERSEDED: "superseded", CONFLICT, None,
        "a change of somebody else stands instead",
        "The write was accepted while the database was away. When it was back, the todo had been changed elsewhere meanwhile, and that change stands.",
        "Read the todo, decide again, and use a new Idempotency-Key.";
    VERSION_MISMATCH: "version-mismatch", PRECONDITION_FAILED, None,
        "the todo has another version than If-Match says",
        "The todo was changed after the version in If-Match had been read.",
        "Read the todo, decide again, and send the version that you have read.";
    CHANGED_MEANWHILE: "changed-meanwhile", PRECONDITION_FAILED, None,
        "this item was changed after your list was loaded",
        "A form on the page carries the version of the item that the page showed, and the item has another one by now.",
        "Go back to the list, where the item is shown as it is, and decide again.";
    BODY_TOO_LARGE: "body-too-large", PAYLOAD_TOO_LARGE, None,
        "the body is too large",
        "The body has more bytes than this address takes. The member `detail` says how many it takes.",
        "Send less at once: split a batch, shorten a title.";
    URI_TOO_LONG: "uri-too-long", URI_TOO_LONG, None,
        "the address is too long",
        "Path and query of the request have more bytes together than this server reads.",
        "Send a shorter address. None that this server gives out is near the limit.";
    WRONG_CONTENT_TYPE: "wrong-content-type", UNSUPPORTED_MEDIA_TYPE, None,
        "the body is of a kind that is not understood",
        "The header Content-Type names something else than JSON, or is missing.",
        "Send JSON with Content-Type: application/json.";
    INVALID_TODO: "invalid-todo", UNPROCESSABLE_ENTITY, None,
        "the todo is not valid",
        "The body is JSON, and makes no valid todo. The member `detail` names the member that is wrong and what it must be.",
        "Mend what `detail` names. The same request will be refused again.";
    KEY_REUSED: "key-reused", UNPROCESSABLE_ENTITY, None,
        "the Idempotency-Key was used before for another request",
        "A key stands for one write: with another method, address, condition or body it is refused. What was first sent under the key is not touched by this.",
        "Use a new key for each new write, and an old one only to repeat the very same request.";
    TOO_MANY_REQUESTS: "too-many-requests", TOO_MANY_REQUESTS, None,
        "you ask more often than this server allows one principal",
        "Each principal has a number of requests a second, and some at once. This one has used them up.",
        "Come back after Retry-After. Many todos can be created by one request to /api/todos/batch.";
    INTERNAL: "internal", INTERNAL_SERVER_ERROR, Unknown,
        "something went wrong inside the server",
        "A fault of the server's own. It was logged under the request id of the answer.",
        "Send a write again with the same Idempotency-Key, which is safe, or ask /api/writes/{key}. If it stays, tell the operator the X-Request-Id.";
    OUTCOME_UNKNOWN: "outcome-unknown", SERVICE_UNAVAILABLE, Unknown,
        "it is not known whether the write had its effect",
        "The connection to the database broke off while the write was being committed, and what became of it could not be found out in time.",
        "Send the same request again with the same Idempotency-Key, which is safe and finds out, or ask /api/writes/{key}.";
    WRITE_NOT_ACCEPTED: "write-not-accepted", SERVICE_UNAVAILABLE, None,
        "the write was not accepted: the database is away, and no more writes can be kept for it",
        "The database does not answer, and the journal that keeps writes for it is full, or its disk fails.",
        "Send the same request again after Retry-After, with the same Idempotency-Key.";
    DATABASE_AWAY: "database-away", SERVICE_UNAVAILABLE, None,
        "the database is away, and nothing is kept that could answer instead",
        "The database does not answer, and there is no saved copy of what was asked for.",
        "Come back after Retry-After, or ask another replica, which may have a copy. Writes are accepted meanwhile.";
    OLDER_THAN_SEEN: "older-than-seen", SERVICE_UNAVAILABLE, None,
        "the database is away, and what is kept is older than what you have",
        "The request says by If-None-Match which version its sender has, and only an older one is to be had here. Nobody is shown the past for the present.",
        "Go on with what you have, ask another replica, or come back after Retry-After.";
    TOO_SLOW: "too-slow", SERVICE_UNAVAILABLE, None,
        "the answer was not there in time",
        "The time for the request was over before the database had answered, and there is no saved copy.",
        "Come back after Retry-After. X-Envoy-Expected-Rq-Timeout-Ms shortens the time for a request, and never lengthens it.";
    BUSY: "busy", SERVICE_UNAVAILABLE, None,
        "others are changing the same thing at this moment",
        "Transactions met on the same rows, also when it was tried again.",
        "Send it again after Retry-After, a write with the same Idempotency-Key.";
    OVERLOADED: "overloaded", SERVICE_UNAVAILABLE, None,
        "there is more to do than can be done",
        "More is asked of the server, or of its database, than it can do. What cannot be done in time is refused at once, so that the rest is.",
        "Send it again after Retry-After, a write with the same Idempotency-Key, and not sooner.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_has_an_address_of_its_own_and_says_what_to_do() {
        let slugs: HashSet<&str> = ALL.iter().map(|kind| kind.slug).collect();
        assert_eq!(slugs.len(), ALL.len());
        for kind in ALL {
            assert!(kind.slug.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", kind.slug);
            for text in [kind.meaning, kind.advice] {
                assert!(text.ends_with('.') && text.starts_with(char::is_uppercase), "{text}");
            }
            // A title is a part of a sentence, as error texts are.
            assert!(
                !kind.title.ends_with('.') && !kind.title.starts_with(char::is_uppercase),
                "{}",
                kind.title
            );
            assert!(kind.status.is_client_error() || kind.status.is_server_error());
            assert!(Kind::named(kind.slug).is_some_and(|found| std::ptr::eq(found, *kind)));
        }
        assert_eq!(Kind::named("nothing"), None);
    }
}
