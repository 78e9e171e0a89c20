//! Who goes first where permits are short, in virtual time.

use std::sync::{Arc, Mutex};

use ridethrough::{
    bulkhead::Priority,
    cache::CacheKey,
    db::{DbConfig, Outcome, Query, Statements, TransactionOptions},
};
use tokio::time::sleep;

use super::{
    hosts::{SECOND, Service, names},
    kit::*,
};

/// A report: nobody waits for it.
#[derive(Clone)]
pub(super) struct Report(pub(super) Priority);

impl Query for Report {
    type Answer = Bytes;

    fn name(&self) -> &'static str {
        "report"
    }

    fn cache_key(&self) -> CacheKey {
        CacheKey::shared(format_args!("{:?}", self.0))
    }

    fn priority(&self) -> Priority {
        self.0
    }

    async fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> Result<Option<Bytes>, tokio_postgres::Error> {
        let row = statements.row("SELECT true", &[]).await?;
        Ok(row.map(|_| Bytes::new()))
    }
}

#[tokio::test(start_paused = true)]
async fn where_permits_are_short_somebody_who_waits_goes_before_a_report() {
    let server = FakePostgres::start();
    let mut config = DbConfig::default();
    (config.bulkhead.permits, config.bulkhead.wait) = (1, SECOND * 3);
    let service = Service::with("db", &names(&[("db", &server)]), config);
    sleep(SECOND).await;
    server.fault_always(At::statement("SELECT true"), Fault::Delay(Duration::from_millis(100)));
    let ended = Arc::new(Mutex::new(Vec::new()));
    let mut calls = Vec::new();
    for (place, priority) in [Priority::Interactive, Priority::Batch, Priority::Batch, Priority::Interactive]
        .into_iter()
        .enumerate()
    {
        let (db, ended, deadline) = (service.db.clone(), ended.clone(), service.soon());
        calls.push(tokio::spawn(async move {
            db.read(&Report(priority), deadline).await.unwrap();
            ended.lock().unwrap().push((place, priority));
        }));
        tokio::task::yield_now().await;
    }
    let (db, late, deadline) = (service.db.clone(), ended.clone(), service.soon());
    let options = TransactionOptions { priority: Priority::Batch, ..TransactionOptions::new("export") };
    calls.push(tokio::spawn(async move {
        let outcome = db.transaction(options, deadline, async |_: &Statements<'_>| Ok(())).await;
        assert!(matches!(outcome, Outcome::Committed(())), "{outcome:?}");
        late.lock().unwrap().push((4, Priority::Batch));
    }));
    for call in calls {
        call.await.unwrap();
    }
    let order: Vec<usize> = ended.lock().unwrap().iter().map(|(place, _)| *place).collect();
    assert_eq!(order.get(..2), Some(&[0, 3][..]), "{order:?}: those who wait first");
}
