//! A value that is nobody else's business, such as a name: it is stored and answered like any other, and no log line,
//! error or panic shows it, because neither of its texts does.
//!
//! It hides, it does not encrypt: in the journal, in the cache and in the database the value is as it is.

use std::fmt;

/// What `Display` shows in the place of the value.
const HIDDEN: &str = "[hidden]";

/// A value whose `Debug` and `Display` show nothing of it, not even its length. Whoever needs it says so, with
/// [`expose`](Self::expose).
///
/// With the feature `serde` it is written and read as the value alone, and a value of the wrong form is not repeated in
/// the error; with the feature `postgres` it is a parameter or a column like the value. A driver that logs the parameters
/// of its statements, as `tokio-postgres` does at the level `debug`, logs nothing of it.
///
/// ```
/// use ridethrough::sensitive::Sensitive;
///
/// let name = Sensitive::new("Ada Lovelace".to_owned());
/// assert_eq!(format!("{name:?} {name}"), "Sensitive(..) [hidden]");
/// assert_eq!(name.expose(), "Ada Lovelace");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Hides `value`.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for those whose business it is.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// The value, no longer hidden.
    #[must_use]
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Sensitive<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(..)")
    }
}

impl<T> fmt::Display for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(feature = "serde")]
impl<T: serde::Serialize> serde::Serialize for Sensitive<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

#[cfg(feature = "serde")]
impl<'de, T: serde::Deserialize<'de>> serde::Deserialize<'de> for Sensitive<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The error of the value's own type quotes what it could not read.
        let read = T::deserialize(deserializer);
        read.map(Self).map_err(|_| serde::de::Error::custom("a hidden value has the wrong form"))
    }
}

#[cfg(feature = "postgres")]
mod column {
    use bytes::BytesMut;
    use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};

    use super::Sensitive;

    type AnyError = Box<dyn std::error::Error + Sync + Send>;

    impl<T: ToSql> ToSql for Sensitive<T> {
        fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
            self.0.to_sql(wanted, out)
        }

        fn accepts(wanted: &Type) -> bool {
            T::accepts(wanted)
        }

        fn to_sql_checked(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
            self.0.to_sql_checked(wanted, out)
        }

        fn encode_format(&self, wanted: &Type) -> Format {
            self.0.encode_format(wanted)
        }
    }

    impl<'a, T: FromSql<'a>> FromSql<'a> for Sensitive<T> {
        fn from_sql(found: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
            T::from_sql(found, raw).map(Self)
        }

        fn from_sql_null(found: &Type) -> Result<Self, AnyError> {
            T::from_sql_null(found).map(Self)
        }

        fn accepts(found: &Type) -> bool {
            T::accepts(found)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "quokkazanzibar";

    #[test]
    fn neither_text_of_it_nor_of_what_holds_it_shows_the_value() {
        let name = Sensitive::new(NAME.to_owned());
        let shown = format!("{name} {name:#?} {:?} {name:>40}", Some(vec![name.clone()]));
        assert!(
            !shown.contains(NAME) && shown.contains(HIDDEN) && shown.contains("Sensitive(..)"),
            "{shown}"
        );
        assert_eq!((name.expose().as_str(), name.clone().into_exposed().as_str()), (NAME, NAME));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn in_a_document_it_is_the_value_alone() {
        let name = Sensitive::new(NAME.to_owned());
        let document = serde_json::to_string(&name).unwrap();
        assert_eq!(document, format!("\"{NAME}\""));
        assert_eq!(serde_json::from_str::<Sensitive<String>>(&document).unwrap(), name);
    }

    /// serde says ``invalid type: string "…", expected i64``, with the value between the quotes.
    #[cfg(feature = "serde")]
    #[test]
    fn an_error_about_its_form_does_not_quote_it() {
        let document = format!("\"{NAME}\"");
        assert!(serde_json::from_str::<i64>(&document).unwrap_err().to_string().contains(NAME));
        let error = serde_json::from_str::<Sensitive<i64>>(&document).unwrap_err().to_string();
        assert!(!error.contains(NAME) && error.contains("hidden value"), "{error}");
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn as_a_parameter_and_a_column_it_is_the_value_and_the_driver_can_show_nothing_of_it() {
        use bytes::BytesMut;
        use tokio_postgres::types::{FromSql as _, ToSql, Type};

        let name = Sensitive::new(NAME.to_owned());
        let mut sent = BytesMut::new();
        name.to_sql_checked(&Type::TEXT, &mut sent).unwrap();
        assert_eq!(sent, NAME.as_bytes());
        assert_eq!(Sensitive::from_sql(&Type::TEXT, &sent).unwrap(), name);
        assert!(name.to_sql_checked(&Type::INT8, &mut sent).is_err());
        let parameter: &(dyn ToSql + Sync) = &vec![name];
        assert!(!format!("{parameter:?}").contains(NAME));
    }
}
