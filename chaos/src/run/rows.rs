//! The rows of somebody else's service, read at the end by the query of its target, and what has to be in the database for
//! that. It judges none of it.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::history::{Action, Completion, Event, Got, Invoke, LedgerRow, LedgerRows, Recorder};
use crate::target::{Database, Keeps};

/// A healthy database answers this in milliseconds, also with a million rows in seconds.
const LIMIT: Duration = Duration::from_secs(60);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Operations that are made of rows are numbered from here, above those of any load.
const OPS_FROM: u64 = 1 << 40;
/// Who asked for them.
const ASKED: &str = "database";

/// Has the database write down what the service itself does not keep.
pub(super) async fn observe(cluster: &Cluster, statements: &str) -> Result<(), Error> {
    let what = "prepare the database for looking on";
    let work = async {
        let client = cluster.connect(CONNECT_LIMIT).await?;
        client.batch_execute(statements).await.map_err(Error::postgres(what))
    };
    let late = |_| Error::Late { what: what.to_owned(), limit: LIMIT };
    tokio::time::timeout(LIMIT, work).await.map_err(late)?
}

/// Reads all rows, in the one snapshot of one statement.
pub(super) async fn of_target(
    cluster: &Cluster,
    database: &Database,
    recorder: &Recorder,
) -> Result<(), Error> {
    let what = "read the rows of the target";
    let begun_us = recorder.now_us();
    let read = async {
        let client = cluster.connect(CONNECT_LIMIT).await?;
        // Texts of whatever types the columns have.
        let messages = client.simple_query(&database.rows).await.map_err(Error::postgres(what))?;
        messages.iter().filter_map(row).collect::<Result<Vec<_>, _>>()
    };
    let late = |_| Error::Late { what: what.to_owned(), limit: LIMIT };
    let rows = tokio::time::timeout(LIMIT, read).await.map_err(late)??;
    let keeps = database.keeps;
    let told = recorder.clone();
    // More of them than the queue of the history holds.
    let writing = tokio::task::spawn_blocking(move || match keeps {
        Keeps::All => all(rows, &told),
        Keeps::Last => last(rows, begun_us, &told),
    });
    writing.await.map_err(|error| Error::state(what, error.to_string()))
}

fn row(message: &SimpleQueryMessage) -> Option<Result<LedgerRow, Error>> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    let wrong = |reason: &str| Error::state("read the rows of the target", reason);
    let text = |column| row.try_get(column).ok().flatten();
    let (Some(object), Some(value)) = (text(0), text(1)) else {
        return Some(Err(wrong("a row has no id and value in its first two columns")));
    };
    let n = match text(2).map(str::parse) {
        None => None,
        Some(Ok(n)) => Some(n),
        Some(Err(_)) => return Some(Err(wrong("the third column, the place, is no whole number"))),
    };
    Some(Ok(LedgerRow { object: object.to_owned(), value: value.to_owned(), n }))
}

/// A row for each effect: the ledger.
fn all(rows: Vec<LedgerRow>, told: &Recorder) {
    let count = rows.len() as u64;
    rows.into_iter().for_each(|row| told.record_in_time(Event::LedgerRow(row)));
    told.record_in_time(Event::LedgerRows(LedgerRows { at_us: told.now_us(), rows: count }));
}

/// The last value of each object: a read like any other, by somebody who cannot be told anything stale.
fn last(rows: Vec<LedgerRow>, begun_us: u64, told: &Recorder) {
    for (op, row) in (OPS_FROM..).zip(rows) {
        told.record_in_time(Event::Invoke(Invoke {
            op,
            action: Action::Read,
            planned_us: begun_us,
            at_us: begun_us,
            object: Some(row.object),
            to: ASKED.to_owned(),
            ..Invoke::default()
        }));
        told.record_in_time(Event::Ok(Completion {
            op,
            at_us: told.now_us(),
            sent_us: Some(begun_us),
            got: Got::Answer,
            values: Some(vec![row.value]),
            version: row.n,
            ..Completion::default()
        }));
    }
}
