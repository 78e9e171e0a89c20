//! What the database itself says: the rows after the run, and what a failover may have cost. The truth against which
//! answers are held.

use serde::{Deserialize, Serialize};

/// One row of the table `todos` after the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRow {
    /// Its id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its version.
    pub version: i64,
    /// Its mark.
    pub done: bool,
}

/// The final rows are complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalRows {
    /// When they were read.
    pub at_us: u64,
    /// How many there were; guards against a history that was cut.
    pub rows: u64,
}

/// One effect of a write on an object, as found in the database after the run: a row of a ledger that no unique index
/// keeps from showing a double execution, or an element of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The register or list.
    pub object: String,
    /// The unique value of the operation that had this effect.
    pub value: String,
    /// Its place among all effects on the object, ascending with their commits; from a counter row that is updated in
    /// the same transaction, not from a sequence. Absent where the service keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<i64>,
}

/// The ledger rows are complete. W1 to W3 look at objects only where this line is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRows {
    /// When they were read.
    pub at_us: u64,
    /// How many there were; guards against a history that was cut.
    pub rows: u64,
}

/// The counter row of one object in the same snapshot: how many effects the database counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The register or list.
    pub object: String,
    /// Its count.
    pub count: i64,
}

/// A standby was promoted, and what the old primary alone had is gone. Either both positions or both times bound the
/// loss; positions decide for an operation whose answer carries one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// When the standby was told to promote.
    pub at_us: u64,
    /// The node that became primary.
    #[serde(default)]
    pub node: String,
    /// When the standby got the last of what it replayed: what committed before is safe.
    pub lost_from_us: u64,
    /// When the old primary could commit nothing any more.
    pub lost_until_us: u64,
    /// The last position that the standby had replayed at its promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_lsn: Option<u64>,
    /// The last position that the old primary had written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_lsn: Option<u64>,
}

/// What one server itself reports as lost by a failover. One line for each server that was asked, also with no keys:
/// without any such line nobody asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossReport {
    /// Name of the server.
    pub process: String,
    /// When it was asked.
    pub at_us: u64,
    /// The idempotency keys of the writes it calls lost, or possibly lost.
    #[serde(default)]
    pub keys: Vec<String>,
}
