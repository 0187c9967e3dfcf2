//! Ranges of a key, for relations without pages to be cut by: views, foreign tables, and what can only be read as a whole.
//!
//! A value's place is a number of 64 bits; places are in the order of the values, so that ranges of them are cut, halved
//! and taken from each other as ranges of pages are. Rows without a value belong to the range that begins at place 0.

use chrono::{Datelike, Days, NaiveDate};
use serde_json::Value;

use super::SourceError;
use super::held::plan_nodes;
use crate::pg::{RelationInfo, Session, SplitKey, SplitKind, quote_ident, quote_table};
use crate::schema::{ColumnSchema, PgType};

/// Rows of one range at least: reading a view again has a price.
const RANGE_ROWS_MIN: u64 = 50_000;
/// Ranges for each connection, so that they end together though some ranges take longer.
const RANGES_PER_CONNECTION: u64 = 4;
/// Values by which the bounds are found, about: what the server has to sort.
const SAMPLE_ROWS: u32 = 20_000;
/// Places of negative numbers are below those of the others.
const SIGN: u64 = 1 << 63;
/// Where the server's dates begin to count.
const EPOCH: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");
/// Nodes of a plan whose filters are what could not be asked of what is below them.
const COMPUTED: [&str; 3] = ["Subquery Scan", "CTE Scan", "WindowAgg"];

/// Whether a relation can be copied in ranges of a key.
#[derive(Debug)]
pub enum Split {
    /// By these.
    By(SplitKey),
    /// It has so few rows, or so few values, that it is not worth it.
    Small,
    /// The server would compute all rows for each range, and a row need not be the same each time.
    Computed,
}

/// How a column's values are numbers, if they are.
pub fn split_kind(pg_type: &PgType) -> Option<SplitKind> {
    match pg_type {
        PgType::Int2 | PgType::Int4 | PgType::Int8 => Some(SplitKind::Integer),
        PgType::Date => Some(SplitKind::Date),
        PgType::Uuid => Some(SplitKind::Uuid),
        _ => None,
    }
}

/// Finds ranges of a column with about as many rows each, however its values are spread: the rows are counted, and the
/// bounds are those of a sample.
///
/// # Errors
/// [`SourceError::Copy`].
pub async fn plan_split(
    session: &Session,
    relation: &RelationInfo,
    column: &str,
    kind: SplitKind,
    connections: u64,
) -> Result<Split, SourceError> {
    let table = &relation.schema.table;
    let failed = |source| SourceError::copy(table, source);
    let (from, name) = (quote_table(table), quote_ident(column));
    let rows: i64 = session.query_typed_one(&format!("SELECT count(*) FROM {from}"), &[]).await.map_err(failed)?.get(0);
    let rows = u64::try_from(rows).unwrap_or(0);
    let count = (rows / RANGE_ROWS_MIN).min(connections.max(1) * RANGES_PER_CONNECTION);
    if count < 2 {
        return Ok(Split::Small);
    }
    let shares: Vec<String> = (0..=count).map(|part| format!("{part}::float8 / {count}")).collect();
    let (value, is_finite) = match kind {
        SplitKind::Integer => (format!("{name}::bigint"), String::new()),
        SplitKind::Date => (format!("({name} - date '2000-01-01')"), format!(" AND isfinite({name})")),
        SplitKind::Uuid => (name.clone(), String::new()),
    };
    let sample = format!(
        "SELECT coalesce((percentile_disc(ARRAY[{}]) WITHIN GROUP (ORDER BY {value}))::text[], '{{}}') FROM {from} \
         WHERE random() * {rows} < {SAMPLE_ROWS} AND {name} IS NOT NULL{is_finite}",
        shares.join(", ")
    );
    let found: Vec<Option<String>> = session.query_typed_one(&sample, &[]).await.map_err(failed)?.get(0);
    let places: Vec<u64> = found.iter().flatten().filter_map(|value| place(kind, value)).collect();
    let [lowest, inner @ .., highest] = places.as_slice() else { return Ok(Split::Small) };
    let (lowest, highest, mut bounds) = (*lowest, *highest, inner.to_vec());
    bounds.dedup();
    // Below the lowest is nothing, and nothing is past the last place.
    bounds.retain(|place| *place > lowest && *place < u64::MAX);
    let key = SplitKey { column: column.to_owned(), kind, ends: [lowest, highest], bounds, rows };
    match key.bounds.as_slice() {
        [] => Ok(Split::Small),
        [first, ..] if is_computed(session, relation, &key_condition(&key, *first, None)).await? => Ok(Split::Computed),
        _ => Ok(Split::By(key)),
    }
}

/// Whether the server can apply a condition only to rows that it has computed: such as those of a window function, of
/// `LIMIT`, or with a random number in the column. Rows of a sample differ each time, too.
async fn is_computed(session: &Session, relation: &RelationInfo, condition: &str) -> Result<bool, SourceError> {
    let table = &relation.schema.table;
    let column = |column: &ColumnSchema| quote_ident(&column.name);
    let columns: Vec<String> = relation.schema.columns.iter().map(column).collect();
    let explain = format!("EXPLAIN (FORMAT JSON) SELECT {} FROM {}", columns.join(", "), quote_table(table));
    let failed = |source| SourceError::copy(table, source);
    let before = plan_nodes(&session.simple_query(&explain).await.map_err(failed)?).unwrap_or_default();
    let after = session.simple_query(&format!("{explain} WHERE {condition}")).await.map_err(failed)?;
    let Some(after) = plan_nodes(&after) else { return Ok(true) };
    let filters = |node: &Value| {
        let is_one = node["Node Type"].as_str().is_some_and(|kind| COMPUTED.contains(&kind));
        is_one.then(|| [node["Filter"].clone(), node["Run Condition"].clone()])
    };
    let before: Vec<[Value; 2]> = before.iter().filter_map(filters).collect();
    let is_sample = |node: &Value| node["Node Type"] == "Sample Scan";
    Ok(after.iter().any(is_sample) || after.iter().filter_map(filters).any(|found| !before.contains(&found)))
}

/// Rows with places from one on, up to another.
pub(super) fn key_condition(key: &SplitKey, from: u64, to: Option<u64>) -> String {
    let (name, bound) = (quote_ident(&key.column), |place| literal(key.kind, place));
    match (from, to) {
        (0, Some(to)) => format!("({name} < {} OR {name} IS NULL)", bound(to)),
        (from, Some(to)) => format!("({name} >= {} AND {name} < {})", bound(from), bound(to)),
        (from, None) => format!("({name} >= {})", bound(from)),
    }
}

/// The place of a value as the server prints it; a date as its number of days.
fn place(kind: SplitKind, value: &str) -> Option<u64> {
    match kind {
        SplitKind::Integer | SplitKind::Date => Some(value.parse::<i64>().ok()?.cast_unsigned() ^ SIGN),
        SplitKind::Uuid => {
            let digits: String = value.chars().filter(char::is_ascii_hexdigit).take(16).collect();
            u64::from_str_radix(&digits, 16).ok()
        }
    }
}

/// The lowest value of a place.
fn literal(kind: SplitKind, place: u64) -> String {
    let number = (place ^ SIGN).cast_signed();
    match kind {
        SplitKind::Integer => format!("'{number}'"),
        SplitKind::Date => {
            let days = Days::new(number.unsigned_abs());
            let date = if number < 0 { EPOCH.checked_sub_days(days) } else { EPOCH.checked_add_days(days) };
            // Years that are not written with four digits are left to the server's arithmetic.
            match date.filter(|date| (1..=9999).contains(&date.year())) {
                Some(date) => format!("'{date}'"),
                None => format!("(date '2000-01-01' + ({number}))"),
            }
        }
        SplitKind::Uuid => {
            let digits = format!("{place:016x}");
            let [a, b, c] = [&digits[..8], &digits[8..12], &digits[12..]];
            format!("'{a}-{b}-{c}-0000-000000000000'")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_and_its_literal_are_one_value_and_places_are_in_order() {
        let integers = ["-9223372036854775808", "-5", "0", "7", "9223372036854775807"];
        let uuids = [
            "00000000-0000-0001-0000-000000000000",
            "7fffffff-0000-0001-0000-000000000000",
            "ffffffff-ffff-ffff-0000-000000000000",
        ];
        for (kind, values) in [(SplitKind::Integer, integers.as_slice()), (SplitKind::Uuid, &uuids)] {
            let places: Vec<u64> = values.iter().filter_map(|value| place(kind, value)).collect();
            assert!(places.len() == values.len() && places.is_sorted(), "{places:?}");
            let literals: Vec<String> = places.iter().map(|place| literal(kind, *place)).collect();
            assert_eq!(literals, values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>());
        }
        let date = |days: &str| literal(SplitKind::Date, place(SplitKind::Date, days).unwrap_or(0));
        assert_eq!(["0", "-1", "8840"].map(date), ["'2000-01-01'", "'1999-12-31'", "'2024-03-15'"]);
        assert_eq!(
            ["-800000", "100000000"].map(date),
            ["(date '2000-01-01' + (-800000))", "(date '2000-01-01' + (100000000))"]
        );
    }
}
