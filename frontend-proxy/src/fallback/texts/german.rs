//! The page in German. Only sentences.

use super::{Said, Texts};

pub(super) const TEXTS: Texts = Texts {
    away: Said {
        title: "Wir sind gleich wieder da",
        lead: "Der Dienst ist im Moment nicht erreichbar. Das liegt nicht an Ihnen.",
    },
    busy: Said {
        title: "Gerade sehr viel los",
        lead: "Es sind mehr Menschen hier, als wir gleichzeitig bedienen können. Sie sind bald an der Reihe.",
    },
    late: Said {
        title: "Das dauert zu lange",
        lead: "Der Dienst hat nicht rechtzeitig geantwortet. Vermutlich ist er überlastet oder startet neu.",
    },
    nothing_here: Said { title: "Hier ist nichts", lead: "Bitte prüfen Sie die Adresse." },
    too_large: Said {
        title: "Das ist zu groß",
        lead: "Was Sie gesendet haben, ist größer, als dieser Dienst annimmt. Bitte senden Sie weniger auf einmal.",
    },
    address_too_long: Said {
        title: "Die Adresse ist zu lang",
        lead: "Bitte kürzen Sie die Adresse und versuchen Sie es erneut.",
    },
    not_whole: Said {
        title: "Die Anfrage kam nicht vollständig an",
        lead: "Vielleicht ist Ihre Verbindung langsam oder unterbrochen. Bitte senden Sie sie noch einmal.",
    },
    not_understood: Said {
        title: "Diese Anfrage ist nicht verständlich",
        lead: "Etwas daran ist nicht, wie es sein soll. Bitte beginnen Sie noch einmal.",
    },
    not_stored: "Es wurde nichts gespeichert: Ihre Eingabe wurde nicht weitergegeben.",
    perhaps_stored: "Wir wissen es nicht; Ihre Eingabe kann gespeichert sein. Bitte sehen Sie nach, bevor Sie sie wiederholen.",
    perhaps_stored_with_key: "Wir wissen es nicht; Ihre Eingabe kann gespeichert sein. Ein neuer Versuch mit demselben Schlüssel ist sicher.",
    comes_back: "Diese Seite kommt von selbst zurück, sobald der Dienst wieder da ist.",
    entry_kept: "Ihre Eingabe ist auf dieser Seite aufgehoben, und nur hier. Bitte lassen Sie sie offen.",
    entry_not_kept: "Um Ihre Eingabe erneut zu senden, warten Sie einige Sekunden und laden Sie diese Seite neu. Oder gehen Sie zurück; Ihr Text ist meist noch da.",
    is_back: "Der Dienst ist wieder da.",
    try_now: "Jetzt erneut versuchen",
    entered: "Ihre Eingabe",
    left_out: "Passwörter und Ähnliches werden nicht aufgehoben. Bitte geben Sie sie noch einmal ein.",
    send_again: "Noch einmal senden",
    reference: "Kennung für Rückfragen",
};
