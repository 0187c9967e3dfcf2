//! Some of the rows that a push would add, remove or change, for a person to judge by.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PipelineError;
use crate::pg::{quote_ident, quote_literal};
use crate::transform::{Engine, TransformError, rows_as_json};

/// Rows of each kind.
const ROWS: usize = 5;
/// Characters of a value.
const VALUE_CHARS: usize = 80;

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RowChange {
    /// Only the dataset has its key.
    Added,
    /// Only the live table has it.
    Removed,
    /// Both have it, with a difference.
    Changed,
}

/// A row that a push would change.
#[derive(Debug, Clone, Serialize)]
pub struct RowSample {
    /// What happens to it.
    pub change: RowChange,
    /// Its key, by column, as text.
    pub key: Map<String, Value>,
    /// The columns of a changed row that differ.
    pub columns: Vec<ValueChange>,
}

/// A value before and after, as text; none is null.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ValueChange {
    /// The column.
    pub name: String,
    /// In the live table.
    #[serde(default)]
    pub before: Option<String>,
    /// In the dataset.
    #[serde(default)]
    pub after: Option<String>,
}

/// How the two tables are compared.
pub(super) struct Compared<'a> {
    /// The dataset's view.
    pub(super) dataset: &'a str,
    /// The live table's view.
    pub(super) live: &'a str,
    /// The key of both.
    pub(super) key: &'a [String],
    /// The other columns, with the live column's type.
    pub(super) columns: &'a [(&'a String, &'a String)],
}

#[derive(Deserialize)]
struct Row {
    key: Map<String, Value>,
    #[serde(default)]
    columns: Vec<ValueChange>,
}

impl Compared<'_> {
    /// Some rows of each kind; which ones is left to the engine.
    pub(super) fn sample(&self, engine: &Engine) -> Result<Vec<RowSample>, PipelineError> {
        let mut samples = Vec::new();
        for (change, sql) in self.statements() {
            let (_, batches) = engine.query(&sql)?;
            for row in batches.iter().map(rows_as_json).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
                let failed = |error: serde_json::Error| TransformError::Query(error.to_string());
                let Row { key, columns } = serde_json::from_value(Value::Object(row)).map_err(failed)?;
                samples.push(RowSample { change, key, columns });
            }
        }
        Ok(samples)
    }

    fn statements(&self) -> Vec<(RowChange, String)> {
        let (dataset, live) = (quote_ident(self.dataset), quote_ident(self.live));
        let keys: Vec<String> = self.key.iter().map(|column| quote_ident(column)).collect();
        let keys = keys.join(", ");
        let key_of = |side: &str| {
            let parts = self.key.iter().map(|column| quote_ident(column));
            let parts: Vec<String> = parts.map(|column| format!("{column} := {}", text(side, &column))).collect();
            format!("struct_pack({}) AS \"key\"", parts.join(", "))
        };
        let only = |side: &str, table: &str, other: &str| {
            format!("SELECT {} FROM {table} {side} ANTI JOIN {other} o USING ({keys}) LIMIT {ROWS}", key_of(side))
        };
        let mut all =
            vec![(RowChange::Added, only("d", &dataset, &live)), (RowChange::Removed, only("l", &live, &dataset))];
        let differing = self.columns.iter().map(|(column, data_type)| {
            let name = quote_ident(column);
            let differ = format!("TRY_CAST(d.{name} AS {data_type}) IS DISTINCT FROM l.{name}");
            let change = format!(
                "CASE WHEN {differ} THEN struct_pack(name := {}, \"before\" := {}, \"after\" := {}) END",
                quote_literal(column),
                text("l", &name),
                text("d", &name)
            );
            (differ, change)
        });
        let (differ, changes): (Vec<String>, Vec<String>) = differing.unzip();
        if !differ.is_empty() {
            let sql = format!(
                "SELECT {}, list_filter([{}], lambda change: change IS NOT NULL) AS \"columns\" \
                 FROM {dataset} d JOIN {live} l USING ({keys}) WHERE {} LIMIT {ROWS}",
                key_of("d"),
                changes.join(", "),
                differ.join(" OR ")
            );
            all.push((RowChange::Changed, sql));
        }
        all
    }
}

/// A column's value as text.
fn text(side: &str, column: &str) -> String {
    format!("left(CAST({side}.{column} AS VARCHAR), {VALUE_CHARS})")
}
