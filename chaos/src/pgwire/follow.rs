//! Which statement a message belongs to, in one session: what the client has asked and the server has not yet answered,
//! in order. It reads along; it changes no message.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::pgwire::frame::{Frame, Kind, Sender, malformed};
use crate::pgwire::message::{self, Said, Texts};
use crate::pgwire::sql::Statement;

/// Prepared statements and portals of one session that are remembered; the text of more is not known.
const NAMES_MAX: usize = 1024;
/// Questions of one session without an answer; a client that asks more without reading is broken.
const PENDING_MAX: usize = 65_536;

/// What becomes of the answer to a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes to the client.
    Pass,
    /// The client has not asked, and gets none.
    Withhold,
    /// Its error is told as this one.
    Replace(Said),
}

/// What a message of the server is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) statement: Option<Arc<Statement>>,
    pub(super) fate: Fate,
}

/// A question that only reads, as it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) statement: Arc<Statement>,
    /// The same for the same parameters.
    pub(super) given: u64,
    pub(super) at: Instant,
}

#[derive(Debug)]
struct Pending {
    /// The letter of the client's message.
    code: u8,
    statement: Option<Arc<Statement>>,
    fate: Fate,
    read: Option<Asked>,
}

/// What a portal stands for.
#[derive(Debug)]
struct Bound {
    statement: Arc<Statement>,
    given: u64,
}

/// One session.
#[derive(Debug, Default)]
pub(super) struct Follower {
    statements: HashMap<Bytes, Arc<Statement>>,
    portals: HashMap<Bytes, Bound>,
    /// Reads that were answered since somebody asked for them.
    answered: Vec<Asked>,
    pending: VecDeque<Pending>,
    /// The statement that was answered last: what a sign of readiness is about.
    last: Option<Arc<Statement>>,
    /// An error came before the client's Sync did: whatever comes before that is passed over by the server.
    is_skipping: bool,
}

impl Follower {
    /// The statement that a message of the client belongs to. Nothing is noted yet.
    pub(super) fn statement_of(&self, frame: &Frame) -> Option<Arc<Statement>> {
        let mut texts = Texts(frame.body());
        match frame.kind.code() {
            _ if frame.kind.sender() == Sender::Server => None,
            b'Q' => texts.next().map(|text| Arc::new(Statement::of(text))),
            b'P' => {
                texts.next()?;
                texts.next().map(|text| Arc::new(Statement::of(text)))
            }
            b'B' => {
                texts.next()?;
                self.statements.get(texts.next()?).cloned()
            }
            b'E' => self.portal(texts.next()?),
            b'D' | b'C' => {
                let (of, name) = frame.body().split_first()?;
                let name = Texts(name).next()?;
                if *of == b'S' { self.statements.get(name).cloned() } else { self.portal(name) }
            }
            b'S' | b'd' | b'c' | b'f' => self.pending.back().and_then(|pending| pending.statement.clone()),
            _ => None,
        }
    }

    fn portal(&self, name: &[u8]) -> Option<Arc<Statement>> {
        self.portals.get(name).map(|bound| Arc::clone(&bound.statement))
    }

    /// The reads that were answered since the last call.
    pub(super) fn take_answered(&mut self) -> Vec<Asked> {
        std::mem::take(&mut self.answered)
    }

    /// The reads that wait for their answers still, when the session is over.
    pub(super) fn unanswered(self) -> impl Iterator<Item = Asked> {
        self.pending.into_iter().filter_map(|pending| pending.read)
    }

    /// Notes a message that goes to the server, and what is to become of its answer.
    ///
    /// # Errors
    /// `InvalidData` where more is unanswered than any client waits for.
    pub(super) fn sent(
        &mut self,
        frame: &Frame,
        statement: Option<Arc<Statement>>,
        fate: Fate,
    ) -> io::Result<()> {
        let code = frame.kind.code();
        self.name(frame, statement.as_ref());
        match code {
            b'c' | b'f' => {
                // While rows are copied in, the server passes over the Sync that came with the statement.
                while self.pending.back().is_some_and(|pending| pending.code == b'S') {
                    self.pending.pop_back();
                }
            }
            _ if self.is_skipping && code != b'S' => {}
            b'Q' | b'F' | b'S' | b'P' | b'B' | b'D' | b'E' | b'C' => {
                if self.pending.len() >= PENDING_MAX {
                    return Err(malformed("too many messages without an answer"));
                }
                self.is_skipping = false;
                let read = if code == b'E' { self.read(frame) } else { None };
                self.pending.push_back(Pending { code, statement, fate, read });
            }
            _ => {}
        }
        Ok(())
    }

    /// What an Execute asks, where it only reads.
    fn read(&self, frame: &Frame) -> Option<Asked> {
        let Bound { statement, given } = self.portals.get(Texts(frame.body()).next()?)?;
        let asked = || Asked { statement: Arc::clone(statement), given: *given, at: Instant::now() };
        statement.only_reads().then(asked)
    }

    /// Remembers which statement a name stands for.
    fn name(&mut self, frame: &Frame, statement: Option<&Arc<Statement>>) {
        let mut texts = Texts(frame.body());
        match frame.kind.code() {
            b'P' => remember(&mut self.statements, texts.next(), statement.cloned()),
            b'B' => {
                let name = texts.next();
                // The statement's name; what follows are the parameters, and in which form they and the answer are.
                let _ = texts.next();
                let mut hasher = DefaultHasher::new();
                texts.0.hash(&mut hasher);
                let given = hasher.finish();
                let bound = statement.map(|statement| Bound { statement: Arc::clone(statement), given });
                remember(&mut self.portals, name, bound);
            }
            b'C' => {
                let Some((of, name)) = frame.body().split_first() else { return };
                let name = Texts(name).next().unwrap_or_default();
                if *of == b'S' { drop(self.statements.remove(name)) } else { drop(self.portals.remove(name)) }
            }
            _ => {}
        }
    }

    /// Notes a message of the server, and says what it is about.
    pub(super) fn answered(&mut self, frame: &Frame) -> Answer {
        let code = frame.kind.code();
        if frame.kind == Kind::server(b'Z') {
            return self.ready();
        }
        let Some(front) = self.pending.front() else {
            return Answer { statement: None, fate: Fate::Pass };
        };
        let statement = front.statement.clone();
        // What the server says of its own accord is nobody's answer.
        if matches!(code, b'N' | b'A' | b'S') {
            return Answer { statement, fate: Fate::Pass };
        }
        let fate = match &front.fate {
            Fate::Replace(_) if code != b'E' => Fate::Withhold,
            fate => fate.clone(),
        };
        let of = front.code;
        if statement.is_some() && of != b'S' {
            self.last.clone_from(&statement);
        }
        match (of, code) {
            (b'Q' | b'F', _) => {}
            (_, b'E') => self.skip(),
            (b'P', b'1') | (b'B', b'2') | (b'C', b'3') | (b'D', b'T' | b'n') | (b'E', b'C' | b'I' | b's') => {
                self.is_answered();
            }
            _ => {}
        }
        Answer { statement, fate }
    }

    /// The first of those that wait has its answer.
    fn is_answered(&mut self) {
        self.answered.extend(self.pending.pop_front().and_then(|pending| pending.read));
    }

    /// The server passes over everything up to the next Sync.
    fn skip(&mut self) {
        while self.pending.front().is_some_and(|pending| pending.code != b'S') {
            self.is_answered();
        }
        self.is_skipping = self.pending.is_empty();
    }

    fn ready(&mut self) -> Answer {
        while let Some(pending) = self.pending.pop_front() {
            if matches!(pending.code, b'Q' | b'F' | b'S') {
                // The error of a replaced message was told; this is what comes after it.
                let fate = if pending.fate == Fate::Withhold { Fate::Withhold } else { Fate::Pass };
                let statement = if pending.code == b'S' { self.last.clone() } else { pending.statement };
                return Answer { statement, fate };
            }
        }
        Answer { statement: None, fate: Fate::Pass }
    }
}

fn remember<T>(names: &mut HashMap<Bytes, T>, name: Option<&[u8]>, meaning: Option<T>) {
    let Some(name) = name else { return };
    match meaning {
        Some(meaning) if names.contains_key(name) || names.len() < NAMES_MAX => {
            names.insert(Bytes::copy_from_slice(name), meaning);
        }
        // Else the name would go on standing for another one.
        _ => drop(names.remove(name)),
    }
}

/// Whether the transaction is over with this message.
pub(super) fn is_idle(frame: &Frame) -> bool {
    message::status(frame) == Some(message::IDLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgwire::frame::tests::{FROM_CLIENT, FROM_SERVER, frames};

    fn client(code: u8, body: &[u8]) -> Frame {
        frame(Sender::Client, code, body)
    }

    fn frame(sender: Sender, code: u8, body: &[u8]) -> Frame {
        let mut bytes = vec![code];
        bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend(body);
        let kind = if sender == Sender::Client { Kind::client(code) } else { Kind::server(code) };
        Frame { kind, bytes: bytes.into() }
    }

    fn send(follower: &mut Follower, frame: &Frame) -> Option<String> {
        let statement = follower.statement_of(frame);
        follower.sent(frame, statement.clone(), Fate::Pass).unwrap();
        statement.map(|statement| statement.text().to_owned())
    }

    fn hear(follower: &mut Follower, code: u8, body: &[u8]) -> String {
        let answer = follower.answered(&frame(Sender::Server, code, body));
        answer.statement.map(|statement| statement.text().to_owned()).unwrap_or_default()
    }

    #[test]
    fn a_recorded_conversation_is_attributed() {
        let mut follower = Follower::default();
        let sql = "select $1::int4";
        for one in frames(Sender::Client, FROM_CLIENT) {
            let text = send(&mut follower, &one);
            let has_text = matches!(one.kind.code(), b'P' | b'D' | b'B' | b'E' | b'S');
            assert_eq!(text.as_deref(), has_text.then_some(sql), "{}", one.kind);
        }
        let answers = frames(Sender::Server, FROM_SERVER);
        // What comes before the first sign of readiness answers no statement; here the client did not wait for it.
        let mut follower = Follower::default();
        let (greeting, rest) = answers.split_at(4);
        for one in greeting {
            assert_eq!(follower.answered(one).statement, None);
        }
        for one in frames(Sender::Client, FROM_CLIENT) {
            send(&mut follower, &one);
        }
        for one in rest {
            let statement = follower.answered(one).statement;
            assert_eq!(statement.unwrap().text(), sql, "{}", one.kind);
        }
        assert!(follower.pending.is_empty());
    }

    #[test]
    fn a_commit_prepared_earlier_is_known_in_a_pipeline() {
        let mut follower = Follower::default();
        send(&mut follower, &client(b'P', b"a\0COMMIT\0\0\0"));
        send(&mut follower, &client(b'P', b"b\0insert into t values ($1)\0\0\0"));
        send(&mut follower, &client(b'S', b""));
        for code in [b'1', b'1'] {
            hear(&mut follower, code, b"");
        }
        hear(&mut follower, b'Z', b"I");
        for name in [b"\0b\0", b"\0a\0"] {
            send(&mut follower, &client(b'B', name));
            send(&mut follower, &client(b'E', b"\0\0\0\0\0"));
        }
        send(&mut follower, &client(b'S', b""));
        assert!(hear(&mut follower, b'2', b"").starts_with("insert"));
        hear(&mut follower, b'N', b"");
        assert!(hear(&mut follower, b'C', b"INSERT 0 1\0").starts_with("insert"));
        assert_eq!(hear(&mut follower, b'2', b""), "COMMIT");
        assert_eq!(hear(&mut follower, b'C', b"COMMIT\0"), "COMMIT");
        assert_eq!(hear(&mut follower, b'Z', b"I"), "COMMIT");
    }

    #[test]
    fn reads_are_told_apart_by_statement_and_parameters_and_end_with_their_answers() {
        let mut follower = Follower::default();
        send(&mut follower, &client(b'P', b"r\0select * from t where id = $1\0\0\0"));
        send(&mut follower, &client(b'P', b"w\0delete from t\0\0\0"));
        send(&mut follower, &client(b'S', b""));
        for code in [b'1', b'1', b'Z'] {
            hear(&mut follower, code, b"I");
        }
        for bind in [&b"\0r\0one"[..], b"\0r\0two", b"\0r\0one", b"\0w\0"] {
            send(&mut follower, &client(b'B', bind));
            send(&mut follower, &client(b'E', b"\0\0\0\0\0"));
        }
        for (code, body) in
            [(b'2', &b""[..]), (b'D', b"\0"), (b'C', b"SELECT 1\0"), (b'2', b""), (b'E', b"C40001\0\0")]
        {
            hear(&mut follower, code, body);
        }
        let ended = follower.take_answered();
        let given: Vec<u64> = ended.iter().map(|read| read.given).collect();
        assert_eq!(given.len(), 3, "one was answered, and two fell by one error; the write is no read");
        assert!(given[0] == given[2] && given[0] != given[1]);
        assert_eq!(follower.take_answered(), []);
        send(&mut follower, &client(b'S', b""));
        hear(&mut follower, b'Z', b"I");
        send(&mut follower, &client(b'B', b"\0r\0one"));
        send(&mut follower, &client(b'E', b"\0\0\0\0\0"));
        assert_eq!(follower.unanswered().count(), 1);
    }

    #[test]
    fn an_error_passes_over_everything_up_to_the_next_sync() {
        let mut follower = Follower::default();
        for (code, body) in [(b'P', &b"\0bad\0\0\0"[..]), (b'B', b"\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")]
        {
            send(&mut follower, &client(code, body));
        }
        send(&mut follower, &client(b'Q', b"select 2\0"));
        assert_eq!(hear(&mut follower, b'E', b"C42601\0\0"), "bad");
        assert_eq!(hear(&mut follower, b'Z', b"I"), "bad");
        assert_eq!(hear(&mut follower, b'C', b"SELECT 1\0"), "select 2");
        // The Sync may come after the error.
        send(&mut follower, &client(b'P', b"\0worse\0\0\0"));
        hear(&mut follower, b'Z', b"I");
        assert_eq!(hear(&mut follower, b'E', b"C42601\0\0"), "worse");
        send(&mut follower, &client(b'B', b"\0\0"));
        send(&mut follower, &client(b'S', b""));
        assert_eq!(follower.pending.len(), 1);
    }

    #[test]
    fn the_sync_before_rows_are_copied_in_gets_no_answer() {
        let mut follower = Follower::default();
        for (code, body) in
            [(b'P', &b"\0copy t from stdin\0\0\0"[..]), (b'B', b"\0\0"), (b'E', b"\0\0\0\0\0")]
        {
            send(&mut follower, &client(code, body));
        }
        send(&mut follower, &client(b'S', b""));
        for code in [b'1', b'2', b'G'] {
            hear(&mut follower, code, b"");
        }
        for code in [b'd', b'd', b'c', b'S'] {
            send(&mut follower, &client(code, b""));
        }
        send(&mut follower, &client(b'Q', b"select 2\0"));
        assert!(hear(&mut follower, b'C', b"COPY 2\0").starts_with("copy"));
        assert!(hear(&mut follower, b'Z', b"I").starts_with("copy"));
        assert_eq!(hear(&mut follower, b'T', b"\0\0"), "select 2");
    }

    #[test]
    fn a_withheld_answer_ends_with_its_sign_of_readiness() {
        let mut follower = Follower::default();
        let planted = message::query("SELECT 1/0");
        follower.sent(&planted, None, Fate::Withhold).unwrap();
        send(&mut follower, &client(b'Q', b"select 2\0"));
        for (code, fate) in
            [(b'E', Fate::Withhold), (b'N', Fate::Pass), (b'Z', Fate::Withhold), (b'C', Fate::Pass)]
        {
            let body: &[u8] = if code == b'Z' { b"E" } else { b"\0" };
            assert_eq!(
                follower.answered(&frame(Sender::Server, code, body)).fate,
                fate,
                "{}",
                char::from(code)
            );
        }
    }

    #[test]
    fn names_are_bounded_and_never_stand_for_another_statement() {
        let mut follower = Follower::default();
        for number in 0..NAMES_MAX + 5 {
            send(&mut follower, &client(b'P', format!("s{number}\0select {number}\0\0\0").as_bytes()));
        }
        assert_eq!(follower.statements.len(), NAMES_MAX);
        let bind = |name: &str| client(b'B', format!("\0{name}\0").as_bytes());
        assert_eq!(follower.statement_of(&bind("s5")).unwrap().text(), "select 5");
        assert_eq!(follower.statement_of(&bind("s1026")), None);
        // A portal bound to a statement that is not known forgets the one before.
        send(&mut follower, &bind("s5"));
        send(&mut follower, &bind("s1026"));
        assert_eq!(follower.statement_of(&client(b'E', b"\0\0\0\0\0")), None);
    }
}
