//! The sentences of the page, in each language.
//!
//! They promise only what is known: in particular about a write that was sent and never answered.

use super::{Failure, Outcome, Trouble, language::Language, page::Content};
use crate::{backend::NoBackend, target::Refusal, upstream::AttemptError};

/// The sentences of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) title: &'static str,
    pub(super) lead: &'static str,
    /// What became of what the person entered.
    pub(super) outcome: Option<&'static str>,
    /// What happens next.
    pub(super) next: Option<String>,
    /// The words on the link that asks again.
    pub(super) action: Option<&'static str>,
    /// What the id at the foot of the page is.
    pub(super) reference: &'static str,
}

/// The sentences for `content`.
pub(super) fn of(content: &Content<'_>) -> Texts {
    let language = content.language;
    let (title, lead) = match content.trouble {
        Trouble::Failed(failure, _) => failed(language, failure),
        Trouble::Refused(refusal) => refused(language, refusal),
    };
    let may_repeat = content.outcome.is_none() && matches!(content.trouble, Trouble::Failed(..));
    Texts {
        title,
        lead,
        outcome: content.outcome.map(|outcome| written(language, outcome, content.has_key)),
        next: next(language, content),
        action: may_repeat.then_some(match language {
            Language::English => "Try again now",
            Language::German => "Jetzt erneut versuchen",
        }),
        reference: match language {
            Language::English => "Reference for support",
            Language::German => "Kennung für Rückfragen",
        },
    }
}

fn failed(language: Language, failure: Failure) -> (&'static str, &'static str) {
    let is_late = matches!(failure, Failure::Attempt(AttemptError::TimedOut { .. }));
    let is_full = matches!(failure, Failure::NoBackend(NoBackend::Full));
    match (language, is_late, is_full) {
        (Language::English, _, true) => (
            "Very busy right now",
            "More people are here than we can serve at once. Your turn will come shortly.",
        ),
        (Language::German, _, true) => (
            "Gerade sehr viel los",
            "Es sind mehr Menschen hier, als wir gleichzeitig bedienen können. Sie sind bald an der Reihe.",
        ),
        (Language::English, true, _) => (
            "This is taking too long",
            "The service did not answer in time. It is probably busy or restarting.",
        ),
        (Language::German, true, _) => (
            "Das dauert zu lange",
            "Der Dienst hat nicht rechtzeitig geantwortet. Vermutlich ist er überlastet oder startet neu.",
        ),
        (Language::English, false, _) => {
            ("We will be right back", "The service cannot be reached at the moment. This is not your fault.")
        }
        (Language::German, false, _) => (
            "Wir sind gleich wieder da",
            "Der Dienst ist im Moment nicht erreichbar. Das liegt nicht an Ihnen.",
        ),
    }
}

fn refused(language: Language, refusal: Refusal) -> (&'static str, &'static str) {
    match (language, refusal) {
        (Language::English, Refusal::Hidden) => ("There is nothing here", "Please check the address."),
        (Language::German, Refusal::Hidden) => ("Hier ist nichts", "Bitte prüfen Sie die Adresse."),
        (Language::English, Refusal::BodyTooLarge) => (
            "That is too large",
            "What you sent is larger than this service accepts. Please send less at once.",
        ),
        (Language::German, Refusal::BodyTooLarge) => (
            "Das ist zu groß",
            "Was Sie gesendet haben, ist größer, als dieser Dienst annimmt. Bitte senden Sie weniger auf einmal.",
        ),
        (Language::English, Refusal::TargetTooLong) => {
            ("The address is too long", "Please shorten the address and try again.")
        }
        (Language::German, Refusal::TargetTooLong) => {
            ("Die Adresse ist zu lang", "Bitte kürzen Sie die Adresse und versuchen Sie es erneut.")
        }
        (Language::English, Refusal::BodyTooSlow | Refusal::BodyBroken) => (
            "The request did not arrive whole",
            "Your connection may be slow or unstable. Please send it again.",
        ),
        (Language::German, Refusal::BodyTooSlow | Refusal::BodyBroken) => (
            "Die Anfrage kam nicht vollständig an",
            "Vielleicht ist Ihre Verbindung langsam oder unterbrochen. Bitte senden Sie sie noch einmal.",
        ),
        (Language::English, _) => (
            "This request cannot be understood",
            "Something about it is not as it should be. Please start again.",
        ),
        (Language::German, _) => (
            "Diese Anfrage ist nicht verständlich",
            "Etwas daran ist nicht, wie es sein soll. Bitte beginnen Sie noch einmal.",
        ),
    }
}

fn written(language: Language, outcome: Outcome, has_key: bool) -> &'static str {
    match (language, outcome, has_key) {
        (Language::English, Outcome::Rejected, _) => "Nothing was stored: your entry was never passed on.",
        (Language::German, Outcome::Rejected, _) => {
            "Es wurde nichts gespeichert: Ihre Eingabe wurde nicht weitergegeben."
        }
        (Language::English, Outcome::Unknown, true) => {
            "We cannot tell; your entry may have been stored. Trying again with the same key is safe."
        }
        (Language::German, Outcome::Unknown, true) => {
            "Wir wissen es nicht; Ihre Eingabe kann gespeichert sein. Ein neuer Versuch mit demselben Schlüssel ist sicher."
        }
        (Language::English, Outcome::Unknown, false) => {
            "We cannot tell; your entry may have been stored. Please look before you enter it again."
        }
        (Language::German, Outcome::Unknown, false) => {
            "Wir wissen es nicht; Ihre Eingabe kann gespeichert sein. Bitte sehen Sie nach, bevor Sie sie wiederholen."
        }
    }
}

fn next(language: Language, content: &Content<'_>) -> Option<String> {
    if let Some(seconds) = content.refresh {
        return Some(match language {
            Language::English if seconds == 1 => "This page tries again by itself in a second.".to_owned(),
            Language::German if seconds == 1 => {
                "Diese Seite versucht es in einer Sekunde von selbst noch einmal.".to_owned()
            }
            Language::English => format!("This page tries again by itself in about {seconds} seconds."),
            Language::German => {
                format!("Diese Seite versucht es in etwa {seconds} Sekunden von selbst noch einmal.")
            }
        });
    }
    // Where the entry may be stored and cannot be repeated safely, nobody is told to send it again.
    let may_double = content.outcome == Some(Outcome::Unknown) && !content.has_key;
    (matches!(content.trouble, Trouble::Failed(..)) && !may_double).then(|| match language {
        Language::English => {
            "To send your entry again, wait a few seconds and reload this page. Or go back; your text is usually still there."
                .to_owned()
        }
        Language::German => {
            "Um Ihre Eingabe erneut zu senden, warten Sie einige Sekunden und laden Sie diese Seite neu. Oder gehen Sie zurück; \
             Ihr Text ist meist noch da."
                .to_owned()
        }
    })
}
