//! How a statement reaches the server: prepared once on each connection, or, behind a pooler that hands each transaction
//! another connection, without any name that would have to outlive it. It judges no error and knows no pool.

use std::{ops::Deref, sync::Arc};

use deadpool_postgres::ClientWrapper;
use quick_cache::sync::Cache;
use tokio_postgres::{
    Client, Error, Row, SimpleQueryMessage,
    types::{Kind, ToSql, Type},
};

use super::config::{PoolConfig, Pooler};

/// Statements whose parameter types are kept. A program has few; one that makes texts up as it goes must not grow.
const KNOWN_MAX: usize = 1_000;
/// The name under which a statement is looked at and dropped again, all in one message.
const NAME: &str = "ridethrough_parameter_types";

/// What a whole pool knows about its statements. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Preparing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pooler: Pooler,
    /// Types of the parameters, by the text of the statement.
    known: Cache<String, Arc<[Type]>>,
}

impl Preparing {
    pub(super) fn new(config: &PoolConfig) -> Self {
        Self(Arc::new(Shared { pooler: config.pooler, known: Cache::new(KNOWN_MAX) }))
    }

    /// Forgets what it knows: types of a table may have changed.
    pub(super) fn forget(&self) {
        self.0.known.clear();
    }
}

/// A connection to ask with. Statements are prepared once for each connection and then reused; behind a pooler they carry
/// no name, and the types of their parameters are asked for once.
///
/// It dereferences to the driver's client for everything else; transactions are not the caller's to begin or end. Behind a
/// pooler the client's own `prepare`, `query` and `execute` leave names behind that other sessions meet: use the methods
/// here, or the client's `query_typed` and `batch_execute`. Columns of types that are not PostgreSQL's own make the driver
/// prepare statements as well: cast them in SQL, as in `mood::text`.
#[derive(Debug, Clone, Copy)]
pub struct Statements<'c> {
    client: &'c ClientWrapper,
    preparing: &'c Preparing,
}

impl<'c> Statements<'c> {
    pub(super) fn new(client: &'c ClientWrapper, preparing: &'c Preparing) -> Self {
        Self { client, preparing }
    }

    // Boxed below is what only a pooler needs: the futures of all others need not have room for it.

    /// All rows.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn rows(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        if self.is_pooled() {
            let asking = async { self.client.query_typed(sql, &self.typed(sql, values).await?).await };
            return Box::pin(asking).await;
        }
        let statement = self.client.prepare_cached(sql).await?;
        self.client.query(&statement, values).await
    }

    /// The one row, or none.
    ///
    /// # Errors
    /// Those of the driver; also where there is more than one row.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn row(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Error> {
        if self.is_pooled() {
            let asking = async { self.client.query_typed_opt(sql, &self.typed(sql, values).await?).await };
            return Box::pin(asking).await;
        }
        let statement = self.client.prepare_cached(sql).await?;
        self.client.query_opt(&statement, values).await
    }

    /// Runs it and answers the number of rows it touched.
    ///
    /// # Errors
    /// Those of the driver.
    ///
    /// # Cancel safety
    /// The library destroys the connection of a dropped call.
    pub async fn run(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        if self.is_pooled() {
            let asking = async { self.client.execute_typed(sql, &self.typed(sql, values).await?).await };
            return Box::pin(asking).await;
        }
        let statement = self.client.prepare_cached(sql).await?;
        self.client.execute(&statement, values).await
    }

    /// Whether the next transaction may run on another connection of the server.
    pub(super) fn is_pooled(&self) -> bool {
        self.preparing.0.pooler != Pooler::None
    }

    /// The values with the types that the server expects.
    async fn typed<'v>(
        &self,
        sql: &str,
        values: &[&'v (dyn ToSql + Sync)],
    ) -> Result<Vec<(&'v (dyn ToSql + Sync), Type)>, Error> {
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let known = &self.preparing.0.known;
        let types = match known.get(sql) {
            Some(types) => types,
            None => {
                let types: Arc<[Type]> = self.ask_types(sql).await?.into();
                known.insert(sql.to_owned(), Arc::clone(&types));
                types
            }
        };
        // Fewer types than values is the caller's mistake, which the server then names.
        let types = types.iter().cloned().chain(std::iter::repeat(Type::UNKNOWN));
        Ok(values.iter().copied().zip(types).collect())
    }

    /// Asks the server which types the parameters have. One message of simple statements, because it stays on one
    /// connection behind every pooler, inside a transaction as well as outside, and leaves no name behind.
    async fn ask_types(&self, sql: &str) -> Result<Vec<Type>, Error> {
        let question = question(sql);
        let answered = self.client.simple_query(&question).await?;
        let oids = answered.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(types(oids.unwrap_or_default()))
    }
}

/// A line of its own ends a comment at the end of the statement.
fn question(sql: &str) -> String {
    let sql = sql.trim_end().trim_end_matches(';').trim_end();
    format!(
        "PREPARE {NAME} AS {sql}\n; \
         SELECT array_to_string(parameter_types::oid[], ' ') FROM pg_prepared_statements WHERE name = '{NAME}'; \
         DEALLOCATE {NAME}"
    )
}

fn types(oids: &str) -> Vec<Type> {
    let oids = oids.split_ascii_whitespace().filter_map(|oid| oid.parse().ok());
    // What is not PostgreSQL's own is sent as it is: the value's own `ToSql` decides what it accepts.
    oids.map(|oid| {
        let own = || Type::new(format!("type {oid}"), oid, Kind::Simple, String::new());
        Type::from_oid(oid).unwrap_or_else(own)
    })
    .collect()
}

impl Deref for Statements<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_from_their_numbers_in_order() {
        assert_eq!(types("25 20"), [Type::TEXT, Type::INT8]);
        assert_eq!(types(""), []);
        let [own] = types("70000").try_into().unwrap();
        assert_eq!(own.oid(), 70_000);
    }

    #[test]
    fn a_comment_or_semicolon_at_the_end_does_not_swallow_what_follows() {
        assert!(question("SELECT $1::int -- why\n ;\n").contains("-- why\n; SELECT"));
        assert!(question("SELECT $1::int -- why").contains("-- why\n; SELECT"));
        assert!(question("SELECT $1::int;").contains("$1::int\n; SELECT"));
    }
}
