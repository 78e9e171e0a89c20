//! What is to be done, in order, when a message passes: the message itself, and around it what the rules want. It plans;
//! `relay` does.

use std::time::Duration;

use bytes::Bytes;

use crate::pgwire::cut::{Action, is_notice};
use crate::pgwire::frame::Frame;
use crate::pgwire::plan::Fired;
use crate::pgwire::trigger::Edge;

/// A type that nobody has, and an impossible length.
const GARBAGE: u8 = 0xff;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Send(Bytes),
    Wait(Duration),
    /// Until the rule is taken back.
    Park(u64),
    /// Nothing of this direction arrives any more.
    Swallow,
    /// The rest of the server's answer is not told.
    Withhold,
    End(Ending),
    /// A rule has its effect with the next step.
    Bite(u64),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Reset,
    /// Both sides stay open until the rule is taken back; the server's ends before, after this time.
    Silence(u64, Option<Duration>),
    /// As close, and nobody gets through until the rule is taken back.
    Shut(u64),
}

/// The steps of one message.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) list: Vec<Step>,
    is_ended: bool,
}

impl Steps {
    /// Whether nothing more happens on this connection, or in this direction.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    pub(super) fn send(&mut self, bytes: Bytes) {
        if !self.is_ended {
            self.list.push(Step::Send(bytes));
        }
    }

    pub(super) fn push(&mut self, step: Step) {
        if !self.is_ended {
            self.list.push(step);
        }
    }

    /// What a rule wants, but for the ones that need to know the session.
    pub(super) fn act(&mut self, fired: &Fired) {
        let id = fired.id;
        let step = match &fired.action {
            Action::Close => Step::End(Ending::Close),
            Action::Reset => Step::End(Ending::Reset),
            Action::Blackhole => Step::End(Ending::Silence(id, None)),
            Action::Vanish(after) => Step::End(Ending::Silence(id, Some(*after))),
            Action::Shut => Step::End(Ending::Shut(id)),
            Action::Swallow => Step::Swallow,
            Action::Hold(time) => Step::Wait(*time),
            Action::Pause => Step::Park(id),
            Action::Garbage(count) => Step::Send(Bytes::from(vec![GARBAGE; *count])),
            Action::Say(said) if is_notice(said) => Step::Send(said.to_bytes()),
            Action::Say(_) | Action::Repeat | Action::Abort => return,
        };
        if self.is_ended {
            return;
        }
        self.is_ended = fired.action.ends_connection() || step == Step::Swallow;
        self.list.extend([Step::Bite(id), step]);
    }

    /// The message itself, with what the rules want inside of it and behind it.
    pub(super) fn message(&mut self, frame: &Frame, bytes: &Bytes, fired: &[Fired]) {
        let mut sent = 0;
        let mut inside: Vec<(usize, &Fired)> = fired
            .iter()
            .filter_map(|one| match one.edge {
                Edge::Byte(byte) => Some((byte.min(frame.bytes.len()).min(bytes.len()), one)),
                Edge::Before | Edge::After => None,
            })
            .collect();
        inside.sort_by_key(|(byte, _)| *byte);
        for (byte, one) in inside {
            self.send(bytes.slice(sent..byte));
            sent = byte;
            self.act(one);
        }
        self.send(bytes.slice(sent..));
        for one in fired.iter().filter(|one| one.edge == Edge::After) {
            self.act(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::message;

    fn fired(edge: Edge, action: Action) -> Fired {
        Fired { id: 1, edge, action }
    }

    fn steps(fired: &[Fired]) -> Vec<Step> {
        let frame = message::query("select 1");
        let mut steps = Steps::default();
        fired.iter().filter(|one| one.edge == Edge::Before).for_each(|one| steps.act(one));
        steps.message(&frame, &frame.bytes, fired);
        steps.list
    }

    #[test]
    fn nothing_follows_the_end() {
        let whole = message::query("select 1").bytes;
        let close = [Step::Bite(1), Step::End(Ending::Close)];
        assert_eq!(steps(&[fired(Edge::Before, Action::Close), fired(Edge::After, Action::Reset)]), close);
        let after = steps(&[fired(Edge::After, Action::Close)]);
        assert_eq!(after, [Step::Send(whole.clone()), Step::Bite(1), Step::End(Ending::Close)]);
        let swallowed = steps(&[fired(Edge::Before, Action::Swallow), fired(Edge::After, Action::Close)]);
        assert_eq!(swallowed, [Step::Bite(1), Step::Swallow]);
    }

    #[test]
    fn a_message_is_cut_at_a_byte_and_goes_on_after_a_wait() {
        let whole = message::query("select 1").bytes;
        let wait = Duration::from_millis(5);
        let cut = steps(&[fired(Edge::Byte(3), Action::Hold(wait)), fired(Edge::Byte(1_000), Action::Reset)]);
        let expected = [
            Step::Send(whole.slice(..3)),
            Step::Bite(1),
            Step::Wait(wait),
            Step::Send(whole.slice(3..)),
            Step::Bite(1),
            Step::End(Ending::Reset),
        ];
        assert_eq!(cut, expected);
    }
}
