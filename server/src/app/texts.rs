//! Every sentence that a person reads on the pages, in each language, in one list. When which of them is shown is decided
//! in the templates and in `routes`.
//!
//! A text may have places such as `{n}`. One that counts something has two forms, `name.one` and `name.other`, and is asked
//! for as `name`: English and German both take the first for 1 alone.

use minijinja::{
    Error, ErrorKind, State,
    value::{Kwargs, Value},
};

use super::Language;

/// Name, English, German.
const TEXTS: &[(&str, &str, &str)] = &[
    ("title", "Todos", "Aufgaben"),
    ("add.label", "What is to be done?", "Was ist zu tun?"),
    ("add.button", "Add", "Hinzufügen"),
    ("list.heading", "Your list", "Ihre Liste"),
    ("list.empty", "Nothing to do", "Nichts zu tun"),
    ("list.empty.hint", "Write down the first thing above.", "Schreiben Sie oben das Erste auf."),
    ("list.end", "There is nothing older.", "Älteres gibt es nicht."),
    ("item.added", "Added", "Hinzugefügt"),
    ("item.is-done", "Done", "Erledigt"),
    ("item.waiting", "Accepted, waits to be stored", "Angenommen, wartet aufs Speichern"),
    ("item.stored", "Stored", "Gespeichert"),
    (
        "item.superseded",
        "Your change was not kept: somebody else changed this meanwhile",
        "Ihre Änderung wurde nicht übernommen: Jemand anders hat dies inzwischen geändert",
    ),
    ("item.done", "Done", "Erledigt"),
    ("item.undo", "Not done", "Nicht erledigt"),
    ("item.delete", "Delete", "Löschen"),
    ("pages", "Pages", "Seiten"),
    ("pages.newest", "Newest", "Neueste"),
    ("pages.older", "Older", "Ältere"),
    ("sign-out", "Sign out", "Abmelden"),
    ("sign-in", "Sign in", "Anmelden"),
    ("sign-in.token", "Your token", "Ihr Token"),
    (
        "sign-in.refused",
        "This token is not known, or no longer.",
        "Dieses Token ist nicht oder nicht mehr bekannt.",
    ),
    // The state of things, in the order in which it is told.
    ("state", "State of your list", "Zustand Ihrer Liste"),
    ("state.saved-copy", "The database does not answer right now.", "Die Datenbank antwortet gerade nicht."),
    (
        "state.saved-copy.age",
        "You see a saved copy, {age} old.",
        "Sie sehen eine gespeicherte Kopie, {age} alt.",
    ),
    (
        "state.unavailable",
        "The database does not answer right now, and no copy of this page is saved.",
        "Die Datenbank antwortet gerade nicht, und von dieser Seite ist keine Kopie gespeichert.",
    ),
    ("state.only-waiting", "Here is only what waits.", "Hier steht nur, was wartet."),
    (
        "state.kept",
        "You can go on working: what you change is kept safely and stored later.",
        "Sie können weiterarbeiten: Was Sie ändern, wird sicher verwahrt und später gespeichert.",
    ),
    (
        "state.read-only",
        "Nothing can be changed at the moment: there is no room left for changes that wait.",
        "Im Moment lässt sich nichts ändern: Für wartende Änderungen ist kein Platz mehr.",
    ),
    (
        "state.recovering",
        "The database is back. What waited is being stored now.",
        "Die Datenbank ist wieder da. Was gewartet hat, wird jetzt gespeichert.",
    ),
    ("state.waiting.one", "1 change waits to be stored.", "1 Änderung wartet aufs Speichern."),
    ("state.waiting.other", "{n} changes wait to be stored.", "{n} Änderungen warten aufs Speichern."),
    ("state.removals.one", "1 of them deletes an item.", "1 davon löscht einen Eintrag."),
    ("state.removals.other", "{n} of them delete items.", "{n} davon löschen Einträge."),
    (
        "state.elsewhere",
        "Your last change was accepted and will be stored; this list does not show it yet.",
        "Ihre letzte Änderung wurde angenommen und wird gespeichert; diese Liste zeigt sie noch nicht.",
    ),
    ("state.look-again", "Look again", "Noch einmal nachsehen"),
    ("age.moment", "a few seconds", "wenige Sekunden"),
    ("age.seconds", "{n} seconds", "{n} Sekunden"),
    ("age.minutes.one", "1 minute", "1 Minute"),
    ("age.minutes.other", "{n} minutes", "{n} Minuten"),
    ("age.hours.one", "1 hour", "1 Stunde"),
    ("age.hours.other", "{n} hours", "{n} Stunden"),
    ("age.days.one", "1 day", "1 Tag"),
    ("age.days.other", "{n} days", "{n} Tage"),
    // What the script says by itself.
    ("live.sending", "Sending …", "Wird gesendet …"),
    ("live.stored", "Stored.", "Gespeichert."),
    ("live.all-stored", "Everything is stored.", "Alles ist gespeichert."),
    (
        "live.no-answer",
        "No answer from the server. Whether this arrived is not known; sending it again is safe.",
        "Keine Antwort vom Server. Ob dies ankam, ist nicht bekannt; Sie können es gefahrlos noch einmal senden.",
    ),
    (
        "live.kept-list",
        "You still see the list that this page had before.",
        "Sie sehen noch die Liste, die diese Seite vorher hatte.",
    ),
    (
        "live.out-of-touch",
        "The server does not answer right now. You see the list as it was at {time}.",
        "Der Server antwortet gerade nicht. Sie sehen die Liste von {time} Uhr.",
    ),
    (
        "live.not-kept",
        "A change of yours was not kept: somebody else changed or deleted the item meanwhile.",
        "Eine Ihrer Änderungen wurde nicht übernommen: Jemand anders hat den Eintrag inzwischen geändert oder gelöscht.",
    ),
    // What was wrong with a title.
    ("title.empty", "Please write what is to be done.", "Bitte schreiben Sie, was zu tun ist."),
    ("title.too-long", "This has {n} characters; {max} fit.", "Das sind {n} Zeichen; {max} passen."),
    (
        "title.impossible",
        "There is a character in it that cannot be stored.",
        "Darin steht ein Zeichen, das sich nicht speichern lässt.",
    ),
    // Problems, by the last part of their type.
    ("trouble.heading", "That did not work", "Das hat nicht geklappt"),
    ("trouble.back", "Back to the list", "Zurück zur Liste"),
    (
        "trouble.again.one",
        "Please try again in 1 second.",
        "Bitte versuchen Sie es in 1 Sekunde noch einmal.",
    ),
    (
        "trouble.again.other",
        "Please try again in {n} seconds.",
        "Bitte versuchen Sie es in {n} Sekunden noch einmal.",
    ),
    ("trouble.text-kept", "Your text is still here.", "Ihr Text ist noch da."),
    ("trouble.technical", "For whoever looks into it", "Für alle, die dem nachgehen"),
    ("problem.other", "The request could not be carried out.", "Die Anfrage ließ sich nicht ausführen."),
    ("problem.away", "The service cannot do this right now.", "Der Dienst kann das gerade nicht."),
    ("problem.no-such-path", "There is nothing at this address.", "Unter dieser Adresse ist nichts."),
    ("problem.no-such-todo", "This item is gone.", "Diesen Eintrag gibt es nicht mehr."),
    (
        "problem.changed-meanwhile",
        "This item was changed after your list was loaded. Nothing was changed now; you see it as it is.",
        "Dieser Eintrag wurde geändert, nachdem Ihre Liste geladen war. Jetzt wurde nichts geändert; Sie sehen ihn, wie er ist.",
    ),
    (
        "problem.superseded",
        "Somebody else changed this meanwhile, and that stands.",
        "Jemand anders hat dies inzwischen geändert, und das gilt.",
    ),
    (
        "problem.key-reused",
        "This form was sent before with another text. It is new now: please send it again.",
        "Dieses Formular wurde schon einmal mit anderem Text gesendet. Jetzt ist es neu: Bitte senden Sie es noch einmal.",
    ),
    (
        "problem.write-not-accepted",
        "This was not accepted: the database is away, and there is no room left for changes that wait.",
        "Das wurde nicht angenommen: Die Datenbank ist nicht da, und für wartende Änderungen ist kein Platz mehr.",
    ),
    (
        "problem.outcome-unknown",
        "Whether this was stored is not known. Send it again: it will not be stored twice.",
        "Ob dies gespeichert wurde, ist nicht bekannt. Senden Sie es noch einmal: Es wird nicht doppelt gespeichert.",
    ),
    (
        "problem.overloaded",
        "There is more to do than we can right now.",
        "Gerade ist mehr zu tun, als wir schaffen.",
    ),
    (
        "problem.too-many-requests",
        "That was too much at once. Nothing was done.",
        "Das war zu viel auf einmal. Es wurde nichts getan.",
    ),
    ("problem.uri-too-long", "This address is too long.", "Diese Adresse ist zu lang."),
    ("problem.busy", "Others are changing the same thing right now.", "Andere ändern gerade dasselbe."),
    ("problem.too-slow", "The answer was not there in time.", "Die Antwort war nicht rechtzeitig da."),
    (
        "problem.database-away",
        "The database does not answer right now, and nothing is saved that could be shown instead.",
        "Die Datenbank antwortet gerade nicht, und nichts ist gespeichert, was statt ihrer gezeigt werden könnte.",
    ),
    ("problem.body-too-large", "This is too long to be taken.", "Das ist zu lang, um angenommen zu werden."),
    (
        "problem.body-too-slow",
        "Your text did not arrive in time. Please send it again.",
        "Ihr Text kam nicht rechtzeitig an. Bitte senden Sie ihn noch einmal.",
    ),
    (
        "problem.other-site",
        "This came from another site and was refused.",
        "Das kam von einer fremden Seite und wurde abgelehnt.",
    ),
    ("problem.wrong-method", "This address is not used like that.", "So wird diese Adresse nicht benutzt."),
    (
        "problem.internal",
        "Something went wrong here. It is not your fault, and it was written down.",
        "Hier ist etwas schiefgegangen. Es liegt nicht an Ihnen und wurde vermerkt.",
    ),
];

/// The text of this name, where there is one.
fn find(language: Language, name: &str) -> Option<&'static str> {
    let (_, english, german) = TEXTS.iter().find(|(known, ..)| *known == name)?;
    Some(match language {
        Language::English => english,
        Language::German => german,
    })
}

/// What is said of a problem: its own sentence, or one for all that have none.
pub(crate) fn problem(slug: &str, is_ours: bool) -> String {
    let name = format!("problem.{slug}");
    match find(Language::English, &name) {
        Some(_) => name,
        None if is_ours => "problem.away".to_owned(),
        None => "problem.other".to_owned(),
    }
}

/// A text with what stands in its places, in the form for its number `n`.
pub(crate) fn text(language: Language, name: &str, places: &[(&str, String)]) -> Option<String> {
    let number = places.iter().find(|(place, _)| *place == "n").map(|(_, value)| value.as_str());
    let form = if number == Some("1") { "one" } else { "other" };
    let found = find(language, name).or_else(|| find(language, &format!("{name}.{form}")))?;
    Some(
        places
            .iter()
            .fold(found.to_owned(), |text, (place, value)| text.replace(&format!("{{{place}}}"), value)),
    )
}

/// The function `t` of the templates: `t("state.waiting", n=3)`. What it gives is escaped like any other text.
pub(super) fn of_template(state: &State<'_, '_>, name: &str, places: Kwargs) -> Result<String, Error> {
    let language = state.lookup("language").map(|tag| tag.to_string());
    let language = Language::ALL.into_iter().find(|one| Some(one.tag()) == language.as_deref());
    let values: Result<Vec<(&str, String)>, Error> =
        places.args().map(|place| Ok((place, places.get::<Value>(place)?.to_string()))).collect();
    let found = language.zip(values.ok()).and_then(|(language, values)| text(language, name, &values));
    found.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("there is no text {name}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn places(text: &str) -> BTreeSet<&str> {
        text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(place, _)| place).collect()
    }

    #[test]
    fn both_languages_have_every_text_with_the_same_places() {
        let mut names = BTreeSet::new();
        for (name, english, german) in TEXTS {
            assert!(names.insert(*name), "{name} stands there twice");
            for text in [english, german] {
                assert!(!text.is_empty() && text.trim() == *text, "{name}: {text}");
            }
            // The number 1 may be written out, so a singular need not have its place.
            assert_eq!(places(english), places(german), "{name}");
            if let Some(counted) = name.strip_suffix(".one") {
                assert!(
                    find(Language::English, &format!("{counted}.other")).is_some(),
                    "{name} has no plural"
                );
            }
        }
    }

    #[test]
    fn numbers_are_told_in_their_form() {
        let told = |language, n: u64| text(language, "state.waiting", &[("n", n.to_string())]).unwrap();
        assert_eq!(told(Language::English, 1), "1 change waits to be stored.");
        assert_eq!(told(Language::English, 0), "0 changes wait to be stored.");
        assert_eq!(told(Language::German, 1), "1 Änderung wartet aufs Speichern.");
        assert_eq!(told(Language::German, 21), "21 Änderungen warten aufs Speichern.");
        assert_eq!(text(Language::German, "nothing", &[]), None);
    }

    #[test]
    fn every_problem_has_a_sentence() {
        assert_eq!(problem("too-slow", true), "problem.too-slow");
        assert_eq!(problem("of-tomorrow", true), "problem.away");
        assert_eq!(problem("of-tomorrow", false), "problem.other");
    }

    /// A text that nobody asks for is dead, and one that is asked for and missing is found by a person.
    #[test]
    fn the_texts_are_those_that_are_asked_for() {
        let sources = [
            include_str!("../../templates/base.html"),
            include_str!("../../templates/list.html"),
            include_str!("../../templates/sign-in.html"),
            include_str!("../../templates/trouble.html"),
            include_str!("../routes/page.rs"),
            include_str!("../routes/page/list.rs"),
        ];
        let quoted: BTreeSet<&str> = sources.iter().flat_map(|source| source.split(['"', '\''])).collect();
        for (name, ..) in TEXTS.iter().filter(|(name, ..)| !name.starts_with("problem.")) {
            let counted = name.strip_suffix(".one").or(name.strip_suffix(".other")).unwrap_or(name);
            assert!(quoted.contains(counted), "nobody asks for {name}");
        }
    }
}
