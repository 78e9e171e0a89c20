//! How many transactions wrote for each write that users sent (H5), told by the database: every transaction that writes
//! takes a number of its own, also one that fails. It judges nothing.

use std::time::Duration;

use tokio::time::Instant;

use crate::canary::Canary;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::history::{Count, Counted, Event, Recorder};

const LIMIT: Duration = Duration::from_secs(5);
/// Who counted, in the history.
const COUNTER: &str = "postgresql";

/// The number that the next transaction will take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    at: Instant,
    next: u64,
}

/// Looks now.
pub(super) async fn mark(cluster: &Cluster) -> Result<Mark, Error> {
    let what = "ask for the number of the next transaction";
    let look = async {
        let client = cluster.connect(LIMIT).await?;
        let query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
        let row = client.query_one(query, &[]).await.map_err(Error::postgres(what))?;
        let next: i64 = row.try_get(0).map_err(Error::postgres(what))?;
        Ok(Mark { at: Instant::now(), next: next.unsigned_abs() })
    };
    let late = |_| Error::Late { what: what.to_owned(), limit: LIMIT };
    tokio::time::timeout(LIMIT, look).await.map_err(late)?
}

/// Records what was taken since `from`, less what the canary took, beside the `writes` that users sent.
pub(super) fn record(from: Mark, until: Mark, canary: &Canary, writes: u64, recorder: &Recorder) {
    // Of those that failed hardly one came as far as to take a number: most found no database.
    let own = canary.seen(from.at, until.at).committed as u64;
    let attempts = until.next.saturating_sub(from.next).saturating_sub(own);
    for (what, count) in [(Counted::Requests, writes), (Counted::Attempts, attempts)] {
        let (from_us, at_us) = (recorder.us_of(from.at), recorder.us_of(until.at));
        recorder.record(Event::Count(Count { what, process: COUNTER.to_owned(), from_us, at_us, count }));
    }
}
