//! The tables of a service that has no migrations of its own: one SQL text that may be run again and again. Steps from one
//! schema to the next are the business of the service.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Db, SCHEMA_SQL};
use crate::health::{DatabasePart, SchemaPart};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// For all of it, waiting for another replica included.
const MAKE_MAX: Duration = Duration::from_secs(120);
/// What is made ahead, such as the partitions of the months to come, is made ahead by more than this.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
const PAUSE: Duration = Duration::from_secs(1);

impl Db {
    /// Makes the library's tables and those of `sql` once the database is seen, says then that the schema is in order, and runs
    /// it again every 24 hours, for what has to be made ahead. All of it is one message and so one transaction: take an
    /// advisory lock in it where replicas start together. It never ends; for `main` to spawn.
    ///
    /// # Cancel safety
    /// A transaction in progress is rolled back.
    pub async fn keep_tables(self, sql: &'static str) {
        let mut database = self.database();
        let mut is_logged = false;
        while database.wait_for(|part| *part == DatabasePart::Up).await.is_ok() {
            // The prober tells of a database that is away.
            let Ok(client) = self.connect(CONNECT_MAX).await else {
                sleep(PAUSE).await;
                continue;
            };
            let making = format!("{SCHEMA_SQL}; {sql}");
            match timeout(MAKE_MAX, client.batch_execute(&making)).await {
                Ok(Ok(())) => {
                    self.set_schema(SchemaPart::Ok);
                    is_logged = false;
                    sleep(AGAIN_AFTER).await;
                }
                failed => {
                    let error = failed.ok().and_then(Result::err);
                    let code =
                        error.as_ref().and_then(|error| error.code()).map_or("none", |code| code.code());
                    if !std::mem::replace(&mut is_logged, true) {
                        tracing::warn!(code, "the tables cannot be made; trying again every second");
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
