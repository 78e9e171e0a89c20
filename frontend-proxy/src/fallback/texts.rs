//! The sentences of the page: what each language must have, and which of them a page shows.
//!
//! They promise only what is known: in particular about a write that was sent and never answered. The languages are
//! files of their own, and the compiler sees to it that none lacks a sentence.

mod arabic;
mod english;
mod french;
mod german;
mod spanish;

use super::{Failure, Outcome, Trouble, language::Language, page::Content};
use crate::{backend::NoBackend, target::Refusal, upstream::AttemptError};

/// A heading and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) title: &'static str,
    pub(super) lead: &'static str,
}

/// Everything that can stand on a page, in one language.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) away: Said,
    pub(super) busy: Said,
    pub(super) late: Said,
    pub(super) nothing_here: Said,
    pub(super) too_large: Said,
    pub(super) address_too_long: Said,
    pub(super) not_whole: Said,
    pub(super) not_understood: Said,
    /// Of a write that never left.
    pub(super) not_stored: &'static str,
    /// Of a write that left and was not answered.
    pub(super) perhaps_stored: &'static str,
    /// The same, where it carries an idempotency key.
    pub(super) perhaps_stored_with_key: &'static str,
    /// The page asks again by itself.
    pub(super) comes_back: &'static str,
    /// The entry stands below and can be sent again.
    pub(super) entry_kept: &'static str,
    /// The entry is not on the page.
    pub(super) entry_not_kept: &'static str,
    /// Said by the script once a backend is back and the page does not reload by itself.
    pub(super) is_back: &'static str,
    /// On the link that asks again.
    pub(super) try_now: &'static str,
    /// Heading over the entry.
    pub(super) entered: &'static str,
    /// Of fields that are not kept.
    pub(super) left_out: &'static str,
    /// On the button that sends the entry.
    pub(super) send_again: &'static str,
    /// What the id at the foot of the page is.
    pub(super) reference: &'static str,
}

/// The sentences of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) said: Said,
    /// What became of what the person entered.
    pub(super) outcome: Option<&'static str>,
    /// What happens next.
    pub(super) next: Option<&'static str>,
    /// The words on the link that asks again.
    pub(super) action: Option<&'static str>,
}

impl Texts {
    pub(super) fn of(language: Language) -> &'static Self {
        match language {
            Language::English => &english::TEXTS,
            Language::German => &german::TEXTS,
            Language::French => &french::TEXTS,
            Language::Spanish => &spanish::TEXTS,
            Language::Arabic => &arabic::TEXTS,
        }
    }

    /// What the page with `content` says.
    pub(super) fn choose(&self, content: &Content<'_>) -> Chosen {
        let said = match content.trouble {
            Trouble::Failed(failure, _) => self.failed(failure),
            Trouble::Refused(refusal) => self.refused(refusal),
        };
        let has_failed = matches!(content.trouble, Trouble::Failed(..));
        let outcome = content.outcome.map(|outcome| match (outcome, content.has_key) {
            (Outcome::Rejected, _) => self.not_stored,
            (Outcome::Unknown, true) => self.perhaps_stored_with_key,
            (Outcome::Unknown, false) => self.perhaps_stored,
        });
        // Where the entry may be stored and cannot be repeated safely, nobody is told to send it again.
        let may_double = content.outcome == Some(Outcome::Unknown) && !content.has_key;
        let next = match (content.outcome, content.form) {
            _ if !has_failed => None,
            (None, _) => Some(self.comes_back),
            (Some(_), Some(_)) => Some(self.entry_kept),
            (Some(_), None) => Some(self.entry_not_kept).filter(|_| !may_double),
        };
        let action = (content.outcome.is_none() && has_failed).then_some(self.try_now);
        Chosen { said, outcome, next, action }
    }

    fn failed(&self, failure: Failure) -> Said {
        match failure {
            Failure::NoBackend(NoBackend::Full) => self.busy,
            Failure::Attempt(AttemptError::TimedOut { .. } | AttemptError::Silent { .. }) => self.late,
            _ => self.away,
        }
    }

    fn refused(&self, refusal: Refusal) -> Said {
        match refusal {
            Refusal::Hidden => self.nothing_here,
            Refusal::BodyTooLarge => self.too_large,
            Refusal::TargetTooLong => self.address_too_long,
            Refusal::BodyTooSlow | Refusal::BodyBroken => self.not_whole,
            _ => self.not_understood,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every sentence, each with its name, as the derived `Debug` gives them.
    fn sentences(language: Language) -> Vec<String> {
        let told = format!("{:#?}", Texts::of(language));
        told.lines().filter(|line| line.contains('"')).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn every_language_has_every_sentence_in_words_of_its_own() {
        let all: Vec<(Language, Vec<String>)> =
            Language::ALL.into_iter().map(|language| (language, sentences(language))).collect();
        for (language, sentences) in &all {
            assert_eq!(sentences.len(), 28, "{language:?}");
            for sentence in sentences {
                assert!(!sentence.contains("\"\"") && !sentence.contains("  "), "{language:?}: {sentence}");
                let others = all.iter().filter(|(other, _)| other != language);
                for (other, theirs) in others {
                    assert!(!theirs.contains(sentence), "{language:?} has it from {other:?}: {sentence}");
                }
            }
        }
    }
}
