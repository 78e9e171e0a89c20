//! Values between PostgreSQL's binary format and its text, and its names for types. Nothing here fails: what is not
//! known stays as it is.

use bytes::{BufMut, Bytes, BytesMut};
use tokio_postgres::types::Type;

use super::reply::Datum;

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// The type with this name in SQL.
pub(super) fn type_named(name: &str) -> Option<Type> {
    Some(match name {
        "text" | "regclass" => Type::TEXT,
        "varchar" | "character" => Type::VARCHAR,
        "bool" | "boolean" => Type::BOOL,
        "smallint" | "int2" => Type::INT2,
        "int" | "integer" | "int4" | "serial" => Type::INT4,
        "bigint" | "int8" | "bigserial" => Type::INT8,
        "double" | "float8" => Type::FLOAT8,
        "real" | "float4" => Type::FLOAT4,
        "numeric" => Type::NUMERIC,
        "bytea" => Type::BYTEA,
        "timestamptz" => Type::TIMESTAMPTZ,
        "timestamp" => Type::TIMESTAMP,
        "date" => Type::DATE,
        "uuid" => Type::UUID,
        "json" => Type::JSON,
        "jsonb" => Type::JSONB,
        "oid" => Type::OID,
        "xid" => Type::XID,
        "xid8" => Type::XID8,
        "pg_lsn" => Type::PG_LSN,
        _ => return None,
    })
}

/// The value as text, as a simple query shows it.
pub(super) fn text_of(datum: &Datum) -> Option<String> {
    let bytes = datum.bytes.as_ref()?;
    let int8 = || <[u8; 8]>::try_from(bytes.as_ref()).ok();
    let int4 = || <[u8; 4]>::try_from(bytes.as_ref()).ok();
    let shown = match datum.kind {
        Type::BOOL => bytes.first().map(|byte| if *byte == 0 { "f" } else { "t" }.to_owned()),
        Type::INT2 => <[u8; 2]>::try_from(bytes.as_ref()).ok().map(|raw| i16::from_be_bytes(raw).to_string()),
        Type::INT4 => int4().map(|raw| i32::from_be_bytes(raw).to_string()),
        Type::OID | Type::XID => int4().map(|raw| u32::from_be_bytes(raw).to_string()),
        Type::INT8 => int8().map(|raw| i64::from_be_bytes(raw).to_string()),
        Type::XID8 => int8().map(|raw| u64::from_be_bytes(raw).to_string()),
        Type::FLOAT8 => int8().map(|raw| f64::from_be_bytes(raw).to_string()),
        Type::TIMESTAMPTZ => int8().map(|raw| time(i64::from_be_bytes(raw))),
        Type::PG_LSN => int8().map(|raw| {
            let position = u64::from_be_bytes(raw);
            format!("{:X}/{:X}", position >> 32, position & 0xFFFF_FFFF)
        }),
        Type::BYTEA => Some(bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))),
        _ => None,
    };
    Some(shown.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned()))
}

/// The value in another type, by way of its text; as it is where that cannot be.
pub(super) fn cast(datum: Datum, kind: Type) -> Datum {
    if datum.kind == kind {
        return datum;
    }
    let Some(text) = text_of(&datum) else { return Datum { kind, bytes: None } };
    match from_text(&kind, &text) {
        Some(bytes) => Datum { kind, bytes: Some(bytes) },
        None => datum,
    }
}

fn from_text(kind: &Type, text: &str) -> Option<Bytes> {
    let mut out = BytesMut::new();
    match *kind {
        Type::BOOL => out.put_u8(u8::from(matches!(text, "t" | "true" | "on" | "1" | "yes"))),
        Type::INT2 => out.put_i16(text.parse().ok()?),
        Type::INT4 => out.put_i32(text.parse().ok()?),
        Type::OID | Type::XID => out.put_u32(text.parse().ok()?),
        Type::INT8 => {
            let whole = || text.parse::<f64>().ok().map(|number| number.round() as i64);
            out.put_i64(text.parse().ok().or_else(whole)?);
        }
        Type::PG_LSN => {
            let (high, low) = text.split_once('/')?;
            out.put_u32(u32::from_str_radix(high, 16).ok()?);
            out.put_u32(u32::from_str_radix(low, 16).ok()?);
        }
        Type::XID8 => out.put_u64(text.parse().ok()?),
        Type::FLOAT8 => out.put_f64(text.parse().ok()?),
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::UNKNOWN => out.put_slice(text.as_bytes()),
        _ => return None,
    }
    Some(out.freeze())
}

/// Microseconds since the year 2000 as PostgreSQL shows them in UTC.
fn time(microseconds: i64) -> String {
    let (days, within) = (microseconds.div_euclid(DAY), microseconds.rem_euclid(DAY));
    // Howard Hinnant's days-to-civil arithmetic: years begin in March, so that the leap day is the last of its year.
    let shifted = days + 10_957 + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, fraction) = (within / 1_000_000, within % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:06}+00")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::testkit::reply::datum;

    #[test]
    fn values_show_as_the_server_shows_them() {
        let leap_day = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_210_096_250);
        assert_eq!(text_of(&datum(&leap_day)).unwrap(), "2024-02-29 12:34:56.250000+00");
        assert_eq!(text_of(&datum(&true)).unwrap(), "t");
        assert_eq!(text_of(&datum(&-5_i64)).unwrap(), "-5");
        assert_eq!(text_of(&datum(&vec![1_u8, 255])).unwrap(), "\\x01ff");
        assert_eq!(text_of(&datum(&None::<i32>)), None);
    }

    #[test]
    fn a_cast_goes_by_the_text() {
        assert_eq!(cast(datum(&42_i64), Type::TEXT), datum(&"42"));
        assert_eq!(cast(datum(&"off"), Type::BOOL), datum(&false));
        assert_eq!(cast(datum(&"x"), Type::INT4), datum(&"x"), "what cannot be stays as it is");
    }
}
