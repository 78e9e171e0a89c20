//! What a statement is answered with: rows whose types come from Rust's, a count, or a refusal. It sends nothing.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type};

/// One value with its type, in PostgreSQL's binary format.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Datum {
    pub(super) kind: Type,
    pub(super) bytes: Option<Bytes>,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Type,
}

type Compute = dyn Fn(&Call<'_>) -> Vec<Vec<Datum>> + Send + Sync;

/// What a statement is answered with.
#[derive(Clone)]
pub struct Reply {
    pub(super) kind: ReplyKind,
    pub(super) taking: Vec<Type>,
}

#[derive(Clone)]
pub(super) enum ReplyKind {
    Rows { columns: Vec<Column>, rows: Arc<Compute> },
    Touched(u64),
    Refused(String),
}

/// A statement as it came, for a reply that is computed.
#[derive(Debug)]
pub struct Call<'c> {
    /// The statement.
    pub sql: &'c str,
    pub(super) values: &'c [Option<Bytes>],
}

impl Call<'_> {
    /// The parameter with this number (`$1` is 1) in the format the client chose, which is binary for the driver; `None`
    /// for NULL and where there is none.
    #[must_use]
    pub fn bytes(&self, number: usize) -> Option<&[u8]> {
        self.values.get(number.checked_sub(1)?)?.as_deref()
    }

    /// The parameter as text, where it is of a type like `text`.
    #[must_use]
    pub fn text(&self, number: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(number)?).ok()
    }

    /// The parameter as a number, where it is an integer of any size.
    #[must_use]
    pub fn integer(&self, number: usize) -> Option<i64> {
        let bytes = self.bytes(number)?;
        match bytes.len() {
            2 => Some(i16::from_be_bytes(bytes.try_into().ok()?).into()),
            4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
            8 => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
            _ => None,
        }
    }
}

impl Reply {
    /// These rows: tuples of up to eight values, whose Rust types say what the columns are.
    ///
    /// ```
    /// use ridethrough::testkit::Reply;
    /// let two = Reply::rows(["id", "title"], [(1_i64, "milk"), (2, "bread")]);
    /// let none = Reply::rows::<(i64, Option<String>)>(["id", "title"], []);
    /// ```
    #[must_use]
    pub fn rows<R: RowValues>(
        names: impl IntoIterator<Item = impl Into<String>>,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        let rows: Vec<Vec<Datum>> = rows.into_iter().map(|row| row.data()).collect();
        Self::with(columns::<R>(names), move |_| rows.clone())
    }

    /// Rows made anew for each execution, such as some that depend on the parameters.
    #[must_use]
    pub fn computed<R: RowValues>(
        names: impl IntoIterator<Item = impl Into<String>>,
        rows: impl Fn(&Call<'_>) -> Vec<R> + Send + Sync + 'static,
    ) -> Self {
        Self::with(columns::<R>(names), move |call| rows(call).iter().map(R::data).collect())
    }

    /// No rows; the statement touched this many. For INSERT, UPDATE and DELETE.
    #[must_use]
    pub fn touched(rows: u64) -> Self {
        Self { kind: ReplyKind::Touched(rows), taking: Vec::new() }
    }

    /// An error with this SQLSTATE, always. For an error at one moment see [`Fault::Error`](super::Fault::Error).
    #[must_use]
    pub fn error(code: impl Into<String>) -> Self {
        Self { kind: ReplyKind::Refused(code.into()), taking: Vec::new() }
    }

    /// The types of the statement's parameters, in order, where they cannot be guessed from casts and from the columns of
    /// [`Builder::schema`](super::Builder::schema). Else they are taken for text.
    #[must_use]
    pub fn taking(mut self, types: impl IntoIterator<Item = Type>) -> Self {
        self.taking = types.into_iter().collect();
        self
    }

    fn with(
        columns: Vec<Column>,
        rows: impl Fn(&Call<'_>) -> Vec<Vec<Datum>> + Send + Sync + 'static,
    ) -> Self {
        Self { kind: ReplyKind::Rows { columns, rows: Arc::new(rows) }, taking: Vec::new() }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ReplyKind::Rows { columns, .. } => f.debug_tuple("Rows").field(columns).finish(),
            ReplyKind::Touched(rows) => f.debug_tuple("Touched").field(rows).finish(),
            ReplyKind::Refused(code) => f.debug_tuple("Refused").field(code).finish(),
        }
    }
}

fn columns<R: RowValues>(names: impl IntoIterator<Item = impl Into<String>>) -> Vec<Column> {
    let named = names.into_iter().map(Into::into).zip(R::types());
    named.map(|(name, kind)| Column { name, kind }).collect()
}

/// A Rust value that a column can hold.
pub trait Cell: ToSql {
    /// The column's type.
    fn sql_type() -> Type;
}

macro_rules! cells {
    ($($rust:ty => $sql:ident),* $(,)?) => {
        $(impl Cell for $rust {
            fn sql_type() -> Type {
                Type::$sql
            }
        })*
    };
}

cells! {
    bool => BOOL,
    i16 => INT2,
    i32 => INT4,
    i64 => INT8,
    u32 => OID,
    f64 => FLOAT8,
    &str => TEXT,
    String => TEXT,
    &[u8] => BYTEA,
    Vec<u8> => BYTEA,
    SystemTime => TIMESTAMPTZ,
}

impl<C: Cell> Cell for Option<C> {
    fn sql_type() -> Type {
        C::sql_type()
    }
}

/// A row: a tuple of [`Cell`]s.
pub trait RowValues: private::Sealed {
    /// The types of its columns.
    fn types() -> Vec<Type>;
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this module makes and reads it")]
    fn data(&self) -> Vec<Datum>;
}

mod private {
    pub trait Sealed {}
}

macro_rules! rows {
    ($(($($name:ident)+))*) => {
        $(
            impl<$($name: Cell),+> private::Sealed for ($($name,)+) {}
            impl<$($name: Cell),+> RowValues for ($($name,)+) {
                fn types() -> Vec<Type> {
                    vec![$($name::sql_type()),+]
                }

                #[expect(private_interfaces, reason = "only this module makes and reads it")]
                fn data(&self) -> Vec<Datum> {
                    #[expect(non_snake_case, reason = "the names of the types serve for the values")]
                    let ($($name,)+) = self;
                    vec![$(datum($name)),+]
                }
            }
        )*
    };
}

rows! { (A) (A B) (A B C) (A B C D) (A B C D E) (A B C D E F) (A B C D E F G) (A B C D E F G H) }

/// The value as it goes over the wire.
pub(super) fn datum<C: Cell>(value: &C) -> Datum {
    let kind = C::sql_type();
    let mut bytes = BytesMut::new();
    let bytes = match value.to_sql(&kind, &mut bytes) {
        Ok(IsNull::No) => Some(bytes.freeze()),
        // A value outside of what PostgreSQL can hold, such as a time in a far away year.
        Ok(IsNull::Yes) | Err(_) => None,
    };
    Datum { kind, bytes }
}

/// A NULL of this type.
pub(super) fn null(kind: Type) -> Datum {
    Datum { kind, bytes: None }
}
