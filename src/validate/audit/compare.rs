//! Two datasets, feature by feature.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde_json::{Map, Value};

use super::events::{self, EVENT, EVENTS};
use super::order::UNREACHED;
use super::picks::PICKED;
use super::worlds::{BASE, VARIANT};
use super::{AUDIT_SOURCES, AuditPlan};
use crate::pg::{quote_ident, quote_literal};
use crate::transform::{Engine, TransformError};

/// Columns compared in one join: what a join holds of each row stays small, whatever the dataset's width.
const COLUMNS_AT_ONCE: usize = 64;
/// Columns of which differing rows are shown, for each change.
const SHOWN_COLUMNS: usize = 10;
/// Differing rows shown of each such column.
const SHOWN_ROWS: usize = 2;

/// Which rows must agree.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule<'a> {
    /// All rows of all events, and all columns.
    Everything,
    /// All rows of the events up to a date.
    UpTo(&'a str),
    /// All rows of the events that must not know the picked one, and its own that are in both: an outcome may decide
    /// whether a row is in the dataset.
    InBoth,
    /// The same, and all rows that the picked events have in the base; before the outcome there may be more.
    OfBase,
}

/// A column with rows that differ.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) column: String,
    pub(super) rows: u64,
}

/// What a comparison found.
#[derive(Debug)]
pub(super) struct Compared {
    /// Rows in both.
    pub(super) rows: u64,
    /// Those of them that the change is about: where one event is changed, its own.
    pub(super) own_rows: u64,
    /// Columns compared.
    pub(super) features: usize,
    /// Rows that should be in the variant and are not.
    pub(super) missing: u64,
    /// Rows that are in the variant and should not.
    pub(super) extra: u64,
    /// Columns that differ, those with most rows first.
    pub(super) differences: Vec<Difference>,
    /// Some of the differing values: change, column, event, key, base, variant.
    pub(super) sample: Vec<Map<String, Value>>,
}

/// Compares the dataset of a variant with its base.
pub(super) struct Comparison<'a> {
    engine: &'a Engine,
    plan: &'a AuditPlan,
    /// Columns and their types.
    columns: Vec<(String, String)>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(engine: &'a Engine, plan: &'a AuditPlan) -> Result<Self, TransformError> {
        engine.execute(&format!("SET schema = '{AUDIT_SOURCES}'"))?;
        let columns = engine.columns(&plan.dataset)?;
        engine.execute("SET schema = 'main'")?;
        Ok(Self { engine, plan, columns })
    }

    /// Rows of the dataset in the lake that share their key with another: nobody could say which to compare.
    pub(super) fn doubled_rows(&self) -> Result<u64, TransformError> {
        let key = self.plan.key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        self.engine.count(&format!(
            "SELECT CAST(sum(rows) AS BIGINT) FROM (SELECT count(*) AS rows FROM {AUDIT_SOURCES}.{} GROUP BY {key}) \
             WHERE rows > 1",
            quote_ident(&self.plan.dataset)
        ))
    }

    /// Compares by a rule; `change` names the variant.
    pub(super) fn compare(&self, rule: Rule<'_>, change: &str) -> Result<Compared, TransformError> {
        let sides = self.sides(rule);
        let [rows, own_rows, missing, extra] = self.presence(&sides)?;
        let columns: Vec<&(String, String)> = self
            .columns
            .iter()
            .filter(|column| matches!(rule, Rule::Everything) || !self.plan.labels.contains(&column.0))
            .collect();
        let mut differences = Vec::new();
        for columns in columns.chunks(COLUMNS_AT_ONCE) {
            differences.extend(self.differing(&sides, columns)?);
        }
        differences.sort_by_key(|difference| std::cmp::Reverse(difference.rows));
        let mut sample = if missing > 0 { self.missing(&sides, change)? } else { Vec::new() };
        if extra > 0 {
            sample.extend(self.extra(&sides, change)?);
        }
        for difference in differences.iter().take(SHOWN_COLUMNS) {
            sample.extend(self.sample(&sides, &difference.column, change)?);
        }
        Ok(Compared { rows, own_rows, features: columns.len(), missing, extra, differences, sample })
    }

    fn sides(&self, rule: Rule<'_>) -> Sides {
        let event = quote_ident(&self.plan.event);
        let (base, scope) = match rule {
            Rule::Everything => (AUDIT_SOURCES, "true".to_owned()),
            Rule::UpTo(date) => (
                AUDIT_SOURCES,
                format!("{event} IN (SELECT {EVENT} FROM {EVENTS} WHERE day <= CAST({} AS DATE))", quote_literal(date)),
            ),
            Rule::InBoth | Rule::OfBase => (BASE, format!("{event} IN (SELECT {EVENT} FROM {UNREACHED})")),
        };
        let own = format!("{event} IN (SELECT {EVENT} FROM {PICKED})");
        // Variants have rows for events to come, which the dataset in the lake may lack.
        let is_over = format!("{event} IN (SELECT {EVENT} FROM {EVENTS} WHERE participants > 0)");
        let (own, must_stay, must_not_come) = match rule {
            Rule::Everything | Rule::UpTo(_) => ("true".to_owned(), "true".to_owned(), is_over),
            Rule::InBoth => (own.clone(), format!("NOT {own}"), format!("NOT {own}")),
            Rule::OfBase => (own.clone(), "true".to_owned(), format!("NOT {own}")),
        };
        let dataset = quote_ident(&self.plan.dataset);
        let keys = self.plan.key.iter().map(|c| format!("b.{0} IS NOT DISTINCT FROM v.{0}", quote_ident(c)));
        Sides {
            base: format!("SELECT * FROM {base}.{dataset} WHERE {scope}"),
            variant: format!("SELECT * FROM {VARIANT}.{dataset} WHERE {scope}"),
            keys_agree: keys.collect::<Vec<_>>().join(" AND "),
            own,
            must_stay,
            must_not_come,
        }
    }

    /// Rows in both, those of them that the change is about, rows that went missing, and rows that are new.
    fn presence(&self, sides: &Sides) -> Result<[u64; 4], TransformError> {
        let Sides { base, variant, keys_agree, own, must_stay, must_not_come } = sides;
        let key = self.plan.key.iter().map(|column| quote_ident(column)).collect::<Vec<_>>().join(", ");
        let counts = self.counts(&format!(
            "SELECT count(*) FILTER (WHERE b.here AND v.here), count(*) FILTER (WHERE b.here AND v.here AND b.own), \
             count(*) FILTER (WHERE v.here IS NULL AND b.counts), count(*) FILTER (WHERE b.here IS NULL AND v.counts) \
             FROM (SELECT {key}, true AS here, {own} AS own, {must_stay} AS counts FROM ({base})) AS b \
             FULL JOIN (SELECT {key}, true AS here, {must_not_come} AS counts FROM ({variant})) AS v ON {keys_agree}"
        ))?;
        Ok([0, 1, 2, 3].map(|index| counts.get(index).copied().unwrap_or(0)))
    }

    fn differing(&self, sides: &Sides, columns: &[&(String, String)]) -> Result<Vec<Difference>, TransformError> {
        let counts: Vec<String> =
            columns.iter().map(|column| format!("count(*) FILTER (WHERE {})", differs(column))).collect();
        let counts = self.counts(&format!("SELECT {} FROM {}", counts.join(", "), sides.joined()))?;
        let differences = columns.iter().zip(counts).filter(|(_, rows)| *rows > 0);
        Ok(differences.map(|((column, _), rows)| Difference { column: column.clone(), rows }).collect())
    }

    /// Rows in which a column differs, as JSON.
    fn sample(&self, sides: &Sides, column: &str, change: &str) -> Result<Vec<Map<String, Value>>, TransformError> {
        let Some(typed) = self.columns.iter().find(|(name, _)| name == column) else { return Ok(Vec::new()) };
        let values = format!("{} AS base, {} AS variant", text("b", column), text("v", column));
        let rows = format!("{} WHERE {}", sides.joined(), differs(typed));
        self.shown(change, column, &values, &rows)
    }

    /// Rows that went missing, as JSON.
    fn missing(&self, sides: &Sides, change: &str) -> Result<Vec<Map<String, Value>>, TransformError> {
        let rows = sides.alone(&sides.base, &sides.must_stay, &sides.variant);
        self.shown(change, "(the row)", "'there' AS base, 'missing' AS variant", &rows)
    }

    /// Rows that are new, as JSON.
    fn extra(&self, sides: &Sides, change: &str) -> Result<Vec<Map<String, Value>>, TransformError> {
        let rows = sides.alone(&sides.variant, &sides.must_not_come, &sides.base);
        self.shown(change, "(the row)", "'missing' AS base, 'there' AS variant", &rows)
    }

    fn shown(
        &self,
        change: &str,
        column: &str,
        values: &str,
        rows: &str,
    ) -> Result<Vec<Map<String, Value>>, TransformError> {
        let key: Vec<String> =
            self.plan.key.iter().map(|column| format!("{} := {}", quote_ident(column), text("b", column))).collect();
        let order: Vec<String> = self.plan.key.iter().map(|column| format!("b.{}", quote_ident(column))).collect();
        events::rows(
            self.engine,
            &format!(
                "SELECT {} AS change, {} AS \"column\", {} AS event, struct_pack({}) AS key, {values} \
                 FROM {rows} ORDER BY {} LIMIT {SHOWN_ROWS}",
                quote_literal(change),
                quote_literal(column),
                text("b", &self.plan.event),
                key.join(", "),
                order.join(", ")
            ),
        )
    }

    /// The whole numbers of a result with one row.
    fn counts(&self, sql: &str) -> Result<Vec<u64>, TransformError> {
        let (_, batches) = self.engine.query(sql)?;
        let columns = batches.first().map(|batch| batch.columns().to_vec()).unwrap_or_default();
        let count = |column: &arrow::array::ArrayRef| {
            let counts = column.as_primitive_opt::<Int64Type>()?;
            (counts.len() == 1).then(|| u64::try_from(counts.value(0)).ok()).flatten()
        };
        let counts: Option<Vec<u64>> = columns.iter().map(count).collect();
        counts.ok_or_else(|| TransformError::Query("the counts of a comparison are no whole numbers".to_owned()))
    }
}

/// The two sides of a comparison, as queries.
struct Sides {
    base: String,
    variant: String,
    keys_agree: String,
    /// Which rows the change is about.
    own: String,
    /// Which rows of the base must be in the variant.
    must_stay: String,
    /// Which rows must not be in the variant alone.
    must_not_come: String,
}

impl Sides {
    fn joined(&self) -> String {
        format!("({}) AS b JOIN ({}) AS v ON {}", self.base, self.variant, self.keys_agree)
    }

    /// The rows of one side, as `b`, that should be on the other and are not.
    fn alone(&self, side: &str, counts: &str, other: &str) -> String {
        format!("(SELECT * FROM ({side}) WHERE {counts}) AS b ANTI JOIN ({other}) AS v ON {}", self.keys_agree)
    }
}

/// A value as people read it.
fn text(side: &str, column: &str) -> String {
    format!("coalesce(CAST({side}.{} AS VARCHAR), 'NULL')", quote_ident(column))
}

/// Whether a column differs: NaN equals itself, and a zero does not equal the negative one.
fn differs((name, data_type): &(String, String)) -> String {
    let name = quote_ident(name);
    let plain = format!("b.{name} IS DISTINCT FROM v.{name}");
    match data_type.as_str() {
        "DOUBLE" | "FLOAT" => format!("({plain} OR (b.{name} = 0 AND signbit(b.{name}) <> signbit(v.{name})))"),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::transform::EngineLimits;

    /// Counts how many of some pairs of doubles differ.
    fn differing(pairs: &str) -> u64 {
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        let condition = differs(&("x".to_owned(), "DOUBLE".to_owned()));
        let sql = format!(
            "SELECT count(*) FROM (VALUES {pairs}) AS pairs (one, other), \
             LATERAL (SELECT CAST(one AS DOUBLE) AS x) AS b, LATERAL (SELECT CAST(other AS DOUBLE) AS x) AS v \
             WHERE {condition}"
        );
        engine.count(&sql).unwrap()
    }

    #[test]
    fn nan_equals_itself_and_minus_zero_is_not_zero() {
        assert_eq!(differing("('NaN', 'NaN'), ('0', '0'), ('-0.0', '-0.0'), (NULL, NULL), ('1.5', '1.5')"), 0);
        assert_eq!(
            differing("('0', '-0.0'), ('NaN', NULL), (NULL, '0'), ('NaN', '1'), ('0.1', '0.10000000000000002')"),
            5
        );
    }

    #[test]
    fn missing_new_and_differing_rows_are_told_apart() {
        let engine = Engine::open(None, &EngineLimits::default(), CancellationToken::new()).unwrap();
        engine
            .execute(
                "CREATE SCHEMA audit; CREATE TABLE audit.events AS SELECT * FROM \
                   (VALUES ('r1', 5), ('r2', 0)) AS events (event, participants); \
                 CREATE SCHEMA audit_sources; CREATE TABLE audit_sources.d AS SELECT * FROM \
                   (VALUES ('r1', 'a', 1.5, 1), ('r1', 'b', 2.5, 2), ('r1', NULL, 3.5, 3)) AS d (race, horse, rate, place); \
                 CREATE SCHEMA audit_variant; CREATE TABLE audit_variant.d AS SELECT * FROM \
                   (VALUES ('r1', 'a', 1.5, 9), ('r1', NULL, NULL, 3), ('r1', 'new', 0.5, 4), ('r2', 'to come', 0.5, NULL)) \
                   AS d (race, horse, rate, place)",
            )
            .unwrap();
        let plan = AuditPlan { tables: Vec::new(), ..AuditPlan::of_races() };
        let found = Comparison::new(&engine, &plan).unwrap().compare(Rule::Everything, "a change").unwrap();
        assert_eq!((found.rows, found.own_rows, found.missing, found.extra, found.features), (2, 2, 1, 1, 4));
        let differing: Vec<(&str, u64)> = found.differences.iter().map(|d| (d.column.as_str(), d.rows)).collect();
        assert_eq!(differing, [("rate", 1), ("place", 1)]);
        let shown = serde_json::to_value(&found.sample).unwrap();
        let row = |column: &str, horse: &str, base: &str, variant: &str| {
            serde_json::json!({
                "change": "a change", "column": column, "event": "r1", "key": {"race": "r1", "horse": horse},
                "base": base, "variant": variant
            })
        };
        let expected = [
            row("(the row)", "b", "there", "missing"),
            row("(the row)", "new", "missing", "there"),
            row("rate", "NULL", "3.5", "NULL"),
            row("place", "a", "1", "9"),
        ];
        assert_eq!(shown, serde_json::Value::from(expected.to_vec()));
    }
}
