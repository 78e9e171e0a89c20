//! The bytes of a question and its answer (RFC 1035), as far as a resolver needs them: one question, addresses in the
//! answer, no compression but of the name that was asked for.

use std::net::IpAddr;

use crate::names::Answer;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
/// An answer, by the server that knows, with recursion as if it could.
const ANSWER: u8 = 0x84;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const FAILURE: u8 = 2;
const UNKNOWN: u8 = 3;
/// A datagram without extensions holds 512 bytes; so many addresses fit with the longest name.
const ADDRESSES_MAX: usize = 8;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: [u8; 2],
    recursion: u8,
    /// In lower case, without the last dot.
    pub(super) name: String,
    kind: u16,
    /// As it was asked, to be given back.
    bytes: Vec<u8>,
}

impl Question {
    /// Reads a datagram; `None` where it is not one question.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let &[high, low, flags, _, 0, 1, ..] = header else { return None };
        if flags & 0x80 != 0 {
            return None;
        }
        let mut name = Vec::new();
        let mut left = rest;
        loop {
            let (&length, after) = left.split_first()?;
            if length == 0 {
                left = after;
                break;
            }
            // The two high bits say that the rest is elsewhere, which it is in no question.
            let (label, after) = after.split_at_checked(usize::from(length)).filter(|_| length < 64)?;
            if !name.is_empty() {
                name.push(b'.');
            }
            name.extend(label.iter().map(u8::to_ascii_lowercase));
            left = after;
        }
        let (&kind, left) = left.split_first_chunk::<2>()?;
        let (_class, left) = left.split_first_chunk::<2>()?;
        let asked = rest.len() - left.len();
        Some(Self {
            id: [high, low],
            recursion: flags & RECURSION_DESIRED,
            name: String::from_utf8(name).ok()?,
            kind: u16::from_be_bytes(kind),
            bytes: rest.get(..asked)?.to_vec(),
        })
    }

    /// The datagram that answers it; `None` for silence.
    pub(super) fn reply(&self, answer: &Answer) -> Option<Vec<u8>> {
        let (code, addresses) = match answer {
            Answer::Addresses(addresses) => (0, addresses.as_slice()),
            Answer::Unknown => (UNKNOWN, [].as_slice()),
            Answer::Failure => (FAILURE, [].as_slice()),
            Answer::Silence => return None,
        };
        let records: Vec<Vec<u8>> =
            addresses.iter().filter_map(|address| self.record(*address)).take(ADDRESSES_MAX).collect();
        let count = u8::try_from(records.len()).ok()?;
        let mut bytes = self.id.to_vec();
        bytes.extend([ANSWER | self.recursion, RECURSION_AVAILABLE | code, 0, 1, 0, count, 0, 0, 0, 0]);
        bytes.extend(&self.bytes);
        bytes.extend(records.concat());
        Some(bytes)
    }

    /// An address, where it is of the kind that was asked for. It may not be kept by anybody, so that it can move.
    fn record(&self, address: IpAddr) -> Option<Vec<u8>> {
        let (kind, data) = match address {
            IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
            IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
        };
        if kind != self.kind {
            return None;
        }
        // The name is the one at the end of the header.
        let mut bytes = vec![0xc0, u8::try_from(HEADER_BYTES).ok()?];
        bytes.extend(kind.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        bytes.extend(data);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for the addresses of a name, as a resolver sends it.
    fn asked(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        bytes
    }

    #[test]
    fn addresses_of_the_kind_that_was_asked_for_are_given() {
        let question = Question::read(&asked("Db.Test", TYPE_A)).unwrap();
        assert_eq!(question.name, "db.test");
        let answer = Answer::Addresses(vec!["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()]);
        let reply = question.reply(&answer).unwrap();
        let mut expected = vec![0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        expected.extend(&asked("Db.Test", TYPE_A)[HEADER_BYTES..]);
        expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 2]);
        assert_eq!(reply, expected);
        let six = Question::read(&asked("db.test", TYPE_AAAA)).unwrap().reply(&answer).unwrap();
        assert_eq!((six[7], &six[six.len() - 16..]), (1, &std::net::Ipv6Addr::LOCALHOST.octets()[..]));
    }

    #[test]
    fn failures_have_their_codes_and_silence_none() {
        let question = Question::read(&asked("db.test", TYPE_A)).unwrap();
        for (answer, code) in [(Answer::Unknown, 3), (Answer::Failure, 2), (Answer::Addresses(Vec::new()), 0)]
        {
            assert_eq!(question.reply(&answer).unwrap()[3] & 0x0f, code);
        }
        assert_eq!(question.reply(&Answer::Silence), None);
    }

    #[test]
    fn what_is_no_question_is_none_wherever_it_is_cut() {
        let whole = asked("db.test", TYPE_A);
        for cut in 0..whole.len() {
            assert_eq!(Question::read(&whole[..cut]), None, "{cut}");
        }
        let mut answer = whole.clone();
        answer[2] |= 0x80;
        assert_eq!(Question::read(&answer), None, "an answer is none");
        let mut pointer = whole;
        pointer[12] = 0xc0;
        assert_eq!(Question::read(&pointer), None);
    }
}
