//! One line of a terminal: pieces of text with a colour, cut to a width. Knows the signs that colour text, and nothing of
//! what is shown.

/// The colour of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Faint,
    Red,
    Green,
    Yellow,
    Magenta,
}

impl Colour {
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Faint => Some("2"),
            Self::Red => Some("31"),
            Self::Green => Some("32"),
            Self::Yellow => Some("33"),
            Self::Magenta => Some("35"),
        }
    }
}

/// Pieces of text, one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Line(Vec<(Colour, String)>);

impl Line {
    pub(super) fn add(&mut self, colour: Colour, text: &str) {
        // What comes from a run must not move the cursor.
        let text = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        self.0.push((colour, text));
    }

    /// The line in at most so many letters: a longer one would wrap, and a wrapped line cannot be rewritten.
    pub(super) fn show(&self, width: usize, is_colourful: bool) -> String {
        let mut out = String::new();
        let mut room = width;
        for (colour, text) in &self.0 {
            let cut: String = text.chars().take(room).collect();
            room -= cut.chars().count();
            match colour.code().filter(|_| is_colourful && !cut.is_empty()) {
                Some(code) => out.push_str(&format!("\x1b[{code}m{cut}\x1b[0m")),
                None => out.push_str(&cut),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_by_its_letters_and_not_by_its_colours() {
        let mut line = Line::default();
        line.add(Colour::Red, "four");
        line.add(Colour::Plain, "━━━━");
        assert_eq!(line.show(6, true), "\x1b[31mfour\x1b[0m━━");
        assert_eq!(line.show(3, true), "\x1b[31mfou\x1b[0m");
        assert_eq!(line.show(80, false), "four━━━━");
    }

    #[test]
    fn text_of_a_run_cannot_move_the_cursor() {
        let mut line = Line::default();
        line.add(Colour::Plain, "a\x1b[2Jb\nc");
        assert_eq!(line.show(80, true), "a [2Jb c");
    }
}
