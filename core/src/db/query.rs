//! What a read is: a question with a cache key, and an answer that says how fresh it is.

use std::{future::Future, ops::Deref};

use deadpool_postgres::ClientWrapper;
use tokio_postgres::{Client, Error, Row, types::ToSql};

use crate::cache::{CacheFill, Cacheable, Freshness};

/// A connection to ask with. Statements are prepared once for each connection and then reused.
///
/// It dereferences to the driver's client for everything else; transactions are not the caller's to begin or end.
#[derive(Debug, Clone, Copy)]
pub struct Statements<'c>(pub(super) &'c ClientWrapper);

impl Statements<'_> {
    /// All rows.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn rows(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query(&statement, values).await
    }

    /// The one row, or none.
    ///
    /// # Errors
    /// Those of the driver; also where there is more than one row.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn row(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.query_opt(&statement, values).await
    }

    /// Runs it and answers the number of rows it touched.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn run(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.0.prepare_cached(sql).await?;
        self.0.execute(&statement, values).await
    }
}

impl Deref for Statements<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.0
    }
}

/// One question to the database whose last answer is worth keeping.
pub trait Query: Send + Sync {
    /// The answer.
    type Answer: Cacheable + Send;

    /// What it is called in metrics; one of few.
    fn name(&self) -> &'static str;

    /// Tells this question from all others, its principal included where answers differ by principal.
    fn cache_key(&self) -> String;

    /// Asks. `None` where there is no such thing. Runs again in a retry, so it must only read.
    fn fetch<'c>(
        &'c self,
        statements: &'c Statements<'c>,
    ) -> impl Future<Output = Result<Option<Self::Answer>, Error>> + Send + 'c;

    /// Further cache entries that this answer is good for, such as the items of a list.
    fn fill(&self, answer: &Self::Answer, cache: &CacheFill<'_>) {
        let _ = (answer, cache);
    }
}

/// An answer, and whether it is the database's or a kept one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// The answer; `None` where the database said that there is none.
    pub value: Option<T>,
    /// What it must be labelled with.
    pub freshness: Freshness,
}
