//! What the prober asks a host, and how it reads the answer. It sends; it concludes nothing.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use crate::{
    db::{classify, hosts::Sighting},
    error::{Error, Phase, Stage},
};

/// Role, identity and position in one round trip. All of it may be asked by a role without privileges, at least on 13 to
/// 15. The timeline of a standby is the least it is known to follow, since it learns of a new one only at its next
/// restart point.
const FULL: &str = "SELECT h.recovers, current_setting('transaction_read_only')::bool, \
    (SELECT system_identifier FROM pg_control_system()), \
    CASE WHEN h.recovers \
        THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
            (SELECT min_recovery_end_timeline FROM pg_control_recovery())) \
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END, \
    CASE WHEN h.recovers THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn, \
    CASE WHEN h.recovers THEN (extract(epoch FROM clock_timestamp() - coalesce(pg_last_xact_replay_timestamp(), \
        (SELECT checkpoint_time FROM pg_control_checkpoint()))) * 1000)::bigint END, \
    pg_size_bytes(current_setting('wal_segment_size')), \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint \
    FROM (SELECT pg_is_in_recovery() AS recovers) AS h";
/// For a server that refuses the functions above: a managed one, or a relative of PostgreSQL.
const PLAIN: &str = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
/// Proves that transactions can write, without writing a row and without waiting for a disk: an assigned transaction id
/// makes the commit leave 40 bytes in the WAL, which nobody waits for. Still it costs ids, so it is asked only before
/// the circuit for writes closes again. It does not prove that the disk has room; that is asked otherwise.
const PROOF: &str = "SELECT txid_current()";
/// Proves that the disk of the database has room again: 80 kB in a table that is gone with the commit. Asked only where it
/// was full, at the most once in a second.
const ROOM: &str = "CREATE TEMP TABLE ridethrough_room ON COMMIT DROP AS \
    SELECT repeat('x', 1000) AS filling FROM generate_series(1, 80)";

/// Which of the questions a server understands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tongue {
    #[default]
    Full,
    Plain,
}

/// Asks within `limit`.
pub(super) async fn ask(client: &Client, tongue: &mut Tongue, limit: Duration) -> Result<Sighting, Error> {
    let asked = async {
        if *tongue == Tongue::Full {
            match client.simple_query(FULL).await {
                Err(error) if is_refused_question(&error) => *tongue = Tongue::Plain,
                answered => return answered,
            }
        }
        client.simple_query(PLAIN).await
    };
    answer(asked, limit).await.map(|messages| sighting(&messages))
}

/// Whether writing transactions can begin.
pub(super) async fn prove_writes(client: &Client, limit: Duration) -> Result<(), Error> {
    answer(client.simple_query(PROOF), limit).await.map(|_| ())
}

/// Whether writing finds room. A role that may make no temporary table proves only that transactions begin; a write finds out
/// then.
pub(super) async fn prove_room(client: &Client, limit: Duration) -> Result<(), Error> {
    let asked = async {
        match client.simple_query(ROOM).await {
            Err(error) if is_refused_question(&error) => client.simple_query(PROOF).await,
            answered => answered,
        }
    };
    answer(asked, limit).await.map(|_| ())
}

async fn answer<T>(
    asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    limit: Duration,
) -> Result<T, Error> {
    match timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(classify::error(source, Stage::Query, Phase::Sent).0),
        Err(_) => Err(Error::Timeout { stage: Stage::Query, phase: Phase::Sent, limit }),
    }
}

/// The server lives and will not answer this; 55000 comes where it is promoted between two words of the question.
fn is_refused_question(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        let code = code.code();
        code.starts_with("42") || code.starts_with("0A") || code.starts_with("22")
    })
}

fn sighting(messages: &[SimpleQueryMessage]) -> Sighting {
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    // An answer that nobody can read is no proof that writes are welcome.
    let unreadable = Sighting { read_only: true, ..Sighting::default() };
    row.map_or(unreadable, |row| read(|column| text(row, column)))
}

fn text(row: &SimpleQueryRow, column: usize) -> Option<String> {
    row.try_get(column).ok().flatten().map(str::to_owned)
}

fn read(text: impl Fn(usize) -> Option<String>) -> Sighting {
    let number = |column| text(column).and_then(|word| word.parse::<i64>().ok());
    let positive = |column| number(column).and_then(|number| u64::try_from(number).ok());
    Sighting {
        in_recovery: text(0).as_deref() != Some("f"),
        read_only: text(1).as_deref() != Some("f"),
        // The server shows this unsigned number as a signed one.
        system: number(2).map(i64::cast_unsigned),
        timeline: positive(3).and_then(|number| u32::try_from(number).ok()),
        position: positive(4).map(|position| without_header(position, positive(6))),
        // A negative one comes from clocks that disagree; then it was just now.
        started_us: positive(7),
        replayed_ago_ms: number(5).map(|ago| u64::try_from(ago).unwrap_or(0)),
    }
}

/// An insert position at the very start of a page stands behind the page's header, a replayed one before it. Uncorrected, an
/// idle primary would seem to be ahead of its standbys: after every switch of the segment, and by chance.
fn without_header(position: u64, segment: Option<u64>) -> u64 {
    // A build with larger pages keeps this true; one with smaller pages only loses the correction.
    const PAGE: u64 = 8_192;
    const PAGE_HEADER: u64 = 24;
    const SEGMENT_HEADER: u64 = 40;

    let stands_at = |start: u64, header| start > 0 && position % start == header;
    if segment.is_some_and(|segment| stands_at(segment, SEGMENT_HEADER)) {
        position - SEGMENT_HEADER
    } else if stands_at(PAGE, PAGE_HEADER) {
        position - PAGE_HEADER
    } else {
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(columns: &[Option<&str>]) -> Sighting {
        read(|column| columns.get(column).copied().flatten().map(str::to_owned))
    }

    #[test]
    fn a_primary_and_a_standby_are_read() {
        let primary =
            of(&[Some("f"), Some("f"), Some("7710565918139210561"), Some("1"), Some("50589952"), None]);
        let expected = Sighting {
            system: Some(7_710_565_918_139_210_561),
            timeline: Some(1),
            position: Some(50_589_952),
            ..Sighting::default()
        };
        assert_eq!(primary, expected);
        let switched = of(&[Some("f"), Some("f"), None, Some("1"), Some("83886120"), None, Some("16777216")]);
        assert_eq!(switched.position, Some(83_886_080));
        let standby = of(&[Some("t"), Some("t"), Some("-1"), Some("2"), Some("7"), Some("-3")]);
        assert_eq!((standby.in_recovery, standby.read_only), (true, true));
        assert_eq!((standby.system, standby.replayed_ago_ms), (Some(u64::MAX), Some(0)));
    }

    #[test]
    fn what_cannot_be_read_is_not_known_and_not_written_to() {
        let plain = of(&[Some("f"), Some("f")]);
        assert_eq!(plain, Sighting::default());
        let nonsense = of(&[Some("maybe"), None, Some("x"), Some("-1"), Some(""), Some("1e9")]);
        assert_eq!(nonsense, Sighting { in_recovery: true, read_only: true, ..Sighting::default() });
        assert!(sighting(&[]).read_only);
    }

    /// After a switch of the WAL segment an idle primary seemed to be 40 bytes ahead, and its standby ever further behind.
    #[test]
    fn headers_are_no_distance() {
        const SEGMENT: u64 = 16 * 1024 * 1024;
        let of = |position| without_header(position, Some(SEGMENT));
        assert_eq!(of(5 * SEGMENT + 40), 5 * SEGMENT);
        assert_eq!(of(5 * SEGMENT + 3 * 8_192 + 24), 5 * SEGMENT + 3 * 8_192);
        for true_position in [5 * SEGMENT + 8_192 + 40, 5 * SEGMENT + 41, 5 * SEGMENT + 8_192, 7] {
            assert_eq!(of(true_position), true_position);
        }
        assert_eq!(without_header(40, None), 40);
        assert_eq!(without_header(40, Some(0)), 40);
    }
}
