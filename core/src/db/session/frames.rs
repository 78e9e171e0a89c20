//! Where one message of the wire protocol ends and the next begins, told from their headers alone.
//!
//! It keeps at most the first bytes of the few messages that matter, and trusts no length: a hostile one costs nothing.

/// Kept of an error or a notice: severity and code come first, the text of the message next.
const WORDS_KEPT: usize = 1024;
const HEADER: usize = 5;
/// The tag of a transaction that was rolled back, with which COMMIT can be answered too.
pub(super) const ROLLED_BACK: &[u8] = b"ROLLBACK";

/// A message that has been seen to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// Its type; `0` for the first one of a client, which has none.
    pub(super) tag: u8,
    /// Its first bytes, as many as are kept of its type.
    pub(super) body: &'a [u8],
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the body that are still to come.
    left: usize,
    keep: usize,
    kept: Vec<u8>,
    /// A length that cannot be: nothing after it can be told apart.
    lost: bool,
    /// Which types are kept, and how much of them.
    kept_of: fn(u8) -> usize,
}

impl Frames {
    /// What the server says.
    pub(super) fn of_server() -> Self {
        Self::new(0, |tag| match tag {
            b'Z' => 1,
            b'K' => 8,
            b'C' => ROLLED_BACK.len(),
            b'E' | b'N' => WORDS_KEPT,
            _ => 0,
        })
    }

    /// What the client says. Its first message has no type.
    pub(super) fn of_client() -> Self {
        Self::new(1, |_| 0)
    }

    fn new(have: usize, kept_of: fn(u8) -> usize) -> Self {
        Self { header: [0; HEADER], have, left: 0, keep: 0, kept: Vec::new(), lost: false, kept_of }
    }

    /// Whether it stands between two messages, and has understood all of them.
    pub(super) fn is_between_messages(&self) -> bool {
        self.have == 0 && !self.lost
    }

    /// Whether it met a message that cannot be, and has stopped to follow.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Follows `bytes`, calling `ended` for each message that ends in them.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut ended: impl FnMut(&Message<'_>)) {
        while !bytes.is_empty() && !self.lost {
            // Nearly always a message lies there in one piece, and nothing of it need be kept.
            if self.have == 0
                && let Some((tag, body, later)) = whole(bytes)
            {
                ended(&Message { tag, body: body.get(..(self.kept_of)(tag)).unwrap_or(body) });
                bytes = later;
                continue;
            }
            bytes = if self.have < HEADER { self.follow_header(bytes) } else { self.follow_body(bytes) };
            if self.have == HEADER && self.left == 0 && !self.lost {
                let [tag, ..] = self.header;
                ended(&Message { tag, body: &self.kept });
                self.have = 0;
                self.kept.clear();
            }
        }
    }

    fn follow_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = self.header.get_mut(self.have..).unwrap_or_default();
        let taken = wanted.len().min(bytes.len());
        let (now, later) = bytes.split_at(taken);
        for (place, byte) in wanted.iter_mut().zip(now) {
            *place = *byte;
        }
        self.have += taken;
        if self.have == HEADER {
            let [tag, a, b, c, d] = self.header;
            // The length counts itself.
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            self.lost = length < 4;
            self.left = length.saturating_sub(4);
            self.keep = (self.kept_of)(tag);
        }
        later
    }

    fn follow_body<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, later) = bytes.split_at(self.left.min(bytes.len()));
        let room = self.keep.saturating_sub(self.kept.len());
        if let Some(kept) = now.get(..room.min(now.len())) {
            self.kept.extend_from_slice(kept);
        }
        self.left -= now.len();
        later
    }
}

/// The message that begins here, where it ends here too: its type, its body, and what follows it.
#[inline]
fn whole(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let ([tag, a, b, c, d], rest) = bytes.split_first_chunk::<HEADER>()?;
    let length = (u32::from_be_bytes([*a, *b, *c, *d]) as usize).checked_sub(4)?;
    let (body, later) = rest.split_at_checked(length)?;
    Some((*tag, body, later))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn followed(frames: &mut Frames, pieces: &[&[u8]]) -> Vec<(u8, Vec<u8>)> {
        let mut seen = Vec::new();
        for piece in pieces {
            frames.follow(piece, |message| seen.push((message.tag, message.body.to_vec())));
        }
        seen
    }

    #[test]
    fn only_what_matters_is_kept() {
        let mut bytes = message(b'D', &[7; 100]);
        bytes.extend(message(b'N', &[b'x'; 5_000]));
        bytes.extend(message(b'Z', b"T"));
        let seen = followed(&mut Frames::of_server(), &[&bytes]);
        let kept: Vec<(u8, usize)> = seen.iter().map(|(tag, body)| (*tag, body.len())).collect();
        assert_eq!(kept, [(b'D', 0), (b'N', WORDS_KEPT), (b'Z', 1)]);
    }

    #[test]
    fn the_first_message_of_a_client_has_no_type() {
        let mut bytes = 12_u32.to_be_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes.extend(message(b'Q', b"SELECT 1\0"));
        let tags: Vec<u8> =
            followed(&mut Frames::of_client(), &[&bytes]).into_iter().map(|seen| seen.0).collect();
        assert_eq!(tags, [0, b'Q']);
    }

    /// A length of four gigabytes must not be believed with memory, and one below four not at all.
    #[test]
    fn a_length_that_lies_does_no_harm() {
        let mut frames = Frames::of_server();
        assert!(followed(&mut frames, &[b"E\xff\xff\xff\xff", &[b'x'; 100_000]]).is_empty());
        assert!(frames.kept.capacity() <= 2 * WORDS_KEPT && !frames.is_between_messages());
        for length in 0..4_u8 {
            let mut frames = Frames::of_server();
            assert!(followed(&mut frames, &[&[b'Z', 0, 0, 0, length], b"IIII"]).is_empty());
            assert!(frames.is_lost());
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 1..8),
            cut in 1_usize..9,
        ) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let whole = followed(&mut Frames::of_server(), &[&bytes]);
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            let mut frames = Frames::of_server();
            prop_assert_eq!(&followed(&mut frames, &pieces), &whole);
            prop_assert_eq!(whole.len(), bodies.len());
            prop_assert!(frames.is_between_messages());
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1_usize..50) {
            let mut frames = Frames::of_server();
            for piece in bytes.chunks(cut) {
                frames.follow(piece, |_| ());
            }
            prop_assert!(frames.kept.len() <= WORDS_KEPT);
        }
    }
}
