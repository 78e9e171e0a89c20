//! What a person at a terminal can ask of a running `up`, as one line. Fulfils nothing (`up.rs`), carries nothing
//! (`control.rs`).

use std::fmt;

use crate::error::Error;
use crate::nemesis::{self, Fault};

/// One wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Put this on.
    Break(Fault),
    /// Say what is on and what can be put on.
    Offer,
    /// Take off the fault of this name, or all.
    Heal(Option<&'static str>),
}

impl Wish {
    /// To heal one fault or all; parameters that stand behind the name tell nothing more.
    ///
    /// # Errors
    /// [`Error::Unknown`] where there is no fault of this name.
    pub(crate) fn heal(fault: Option<&str>) -> Result<Self, Error> {
        let fault = fault.map(str::parse::<Fault>).transpose()?;
        Ok(Self::Heal(fault.map(|fault| fault.name())))
    }

    pub(super) fn read(line: &str) -> Option<Self> {
        match line.trim().split_once(' ') {
            Some(("break", "?")) => Some(Self::Offer),
            Some(("break", fault)) => Some(Self::Break(fault.parse().ok()?)),
            Some(("heal", name)) => {
                nemesis::catalogue().find(|kind| kind.name == name).map(|kind| Self::Heal(Some(kind.name)))
            }
            None if line.trim() == "heal" => Some(Self::Heal(None)),
            _ => None,
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Break(fault) => write!(out, "break {fault}"),
            Self::Offer => out.write_str("break ?"),
            Self::Heal(None) => out.write_str("heal"),
            Self::Heal(Some(name)) => write!(out, "heal {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_understood_as_they_are_written_and_nonsense_is_not() {
        let wishes = [
            Wish::Break("db-kill:moment=commit".parse().unwrap()),
            Wish::Offer,
            Wish::Heal(None),
            Wish::heal(Some("network-latency:delay=5")).unwrap(),
        ];
        for wish in wishes {
            assert_eq!(Wish::read(&format!("{wish}\n")), Some(wish));
        }
        for nonsense in ["break", "break everything", "heal all", "heal db-kill db-hang", ""] {
            assert_eq!(Wish::read(nonsense), None, "{nonsense}");
        }
        assert!(Wish::heal(Some("everything")).is_err());
    }
}
