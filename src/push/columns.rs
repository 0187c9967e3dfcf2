//! Which dataset column goes into which table column.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use serde::Serialize;

use crate::columnar::{EncodePlanError, PushPolicy, RowEncoder, is_interval};
use crate::pg::{quote_ident, quote_literal, quote_table};
use crate::schema::{ColumnSchema, NO_TYPMOD, PgType, TableName, TypeRef};

use super::attributes::{Attributes, ColumnAttributes};
use super::error::Blocker;
use super::options::{MissingColumns, NewColumns, TargetOptions};
use super::tally::ColumnTally;

/// How the dataset's columns and the table's go together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ColumnMatch {
    /// Columns that are loaded, in the dataset's order.
    pub matched: Vec<String>,
    /// Dataset columns that the table lacks and that are added to it, with their types.
    pub added: Vec<(String, String)>,
    /// Dataset columns that the table lacks and that are left out.
    pub ignored: Vec<String>,
    /// Table columns that the dataset lacks and the server fills: defaults, identities, generated columns.
    pub filled_by_server: Vec<String>,
    /// Table columns that the dataset lacks and that will be null in every row.
    pub left_null: Vec<String>,
    /// Table columns that the dataset lacks and whose rows keep the value they have, found by the key.
    pub kept: Vec<String>,
    /// Columns that are loaded as text and cast by the server, because their types have no form of bytes that this
    /// program knows.
    pub cast_by_server: Vec<String>,
    /// Columns whose values have to become another type's.
    pub converted: Vec<Converted>,
    /// What to load: the dataset column's place and the target column.
    #[serde(skip)]
    pub(super) load: Vec<(usize, ColumnSchema)>,
    /// What the configuration says about values that do not fit, by target column.
    #[serde(skip)]
    policies: BTreeMap<String, PushPolicy>,
    /// What the kept columns are in rows that are new.
    #[serde(skip)]
    new_values: Vec<NewValue>,
}

/// A column whose type in the table is not what the dataset's would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// The column.
    pub column: String,
    /// The type that a table made from the dataset would have, or the dataset's own name for it.
    pub from: String,
    /// The table's type.
    pub to: String,
}

/// What a kept column is in a row that is new.
#[derive(Debug, Clone)]
enum NewValue {
    /// The column's default, or null.
    Default(String),
    /// The next number of the column's identity.
    Identity,
}

impl ColumnMatch {
    /// Pairs the dataset's columns with a live table's by name.
    pub(super) fn with_table(options: &TargetOptions, dataset: &Schema, live: &Attributes) -> (Self, Vec<Blocker>) {
        let mut found = Self { policies: options.columns.clone(), ..Self::default() };
        let mut blockers = Vec::new();
        for (index, field) in dataset.fields().iter().enumerate() {
            match live.columns.iter().find(|column| column.name == *field.name()) {
                Some(column) if column.generated => blockers.push(Blocker {
                    object: format!("column {}", column.name),
                    why: "the server computes it, so it cannot be loaded".to_owned(),
                    alternative: "leave it out of the dataset".to_owned(),
                }),
                Some(column) => {
                    let mut schema = column.schema();
                    let from =
                        created(field).map_or_else(|| field.data_type().to_string(), |created| created.type_name);
                    if from != schema.type_name {
                        let (column, to) = (schema.name.clone(), schema.type_name.clone());
                        found.converted.push(Converted { column, from, to });
                    }
                    found.matched.push(schema.name.clone());
                    if is_text(field.data_type()) && is_cast(&schema.pg_type, schema.typmod) {
                        schema.pg_type = PgType::Text;
                        found.cast_by_server.push(schema.name.clone());
                    }
                    found.load.push((index, schema));
                }
                None => found.place_new(options, index, field, &mut blockers),
            }
        }
        for column in &live.columns {
            if dataset.field_with_name(&column.name).is_err() {
                blockers.extend(found.place_missing(options, column));
            }
        }
        if !found.kept.is_empty() {
            blockers.extend(found.missing_key(&options.key));
        }
        blockers.extend(found.unknown_settings(options, live));
        blockers.extend(found.refused_pairs(dataset));
        if found.load.is_empty() {
            blockers.push(Blocker {
                object: format!("table {}", options.table),
                why: "it has no column of the dataset".to_owned(),
                alternative: "name another target table".to_owned(),
            });
        }
        (found, blockers)
    }

    /// The columns of a table that the first push creates: all of the dataset's.
    pub(super) fn first(options: &TargetOptions, dataset: &Schema) -> (Self, Vec<Blocker>) {
        let mut found = Self { policies: options.columns.clone(), ..Self::default() };
        let mut blockers = Vec::new();
        for (index, field) in dataset.fields().iter().enumerate() {
            match created(field) {
                Some(mut column) => {
                    column.not_null = options.key.contains(&column.name);
                    found.matched.push(column.name.clone());
                    found.load.push((index, column));
                }
                None => blockers.push(no_type(field)),
            }
        }
        for key in options.key.iter().filter(|key| dataset.field_with_name(key).is_err()) {
            blockers.push(Blocker {
                object: format!("column {key}"),
                why: "it is part of the key, and the dataset lacks it".to_owned(),
                alternative: "name key columns that the dataset has".to_owned(),
            });
        }
        blockers.extend(found.refused_pairs(dataset));
        (found, blockers)
    }

    fn place_new(&mut self, options: &TargetOptions, index: usize, field: &Field, blockers: &mut Vec<Blocker>) {
        match options.new_columns {
            NewColumns::Ignore => self.ignored.push(field.name().clone()),
            NewColumns::Error => blockers.push(Blocker {
                object: format!("column {}", field.name()),
                why: format!("{} does not have it", options.table),
                alternative: "add it to the table, or allow new columns to be added or ignored".to_owned(),
            }),
            NewColumns::Add => match created(field) {
                Some(column) => {
                    self.matched.push(column.name.clone());
                    self.added.push((column.name.clone(), column.type_name.clone()));
                    self.load.push((index, column));
                }
                None => blockers.push(no_type(field)),
            },
        }
    }

    /// Decides about a live column that the dataset lacks.
    fn place_missing(&mut self, options: &TargetOptions, column: &ColumnAttributes) -> Option<Blocker> {
        let asked = options.missing.get(&column.name).copied();
        let filled = column.default.is_some() || column.identity;
        let keep = asked.unwrap_or(options.missing_columns) == MissingColumns::Keep;
        let object = format!("column {}", column.name);
        if column.generated || filled && !keep {
            self.filled_by_server.push(column.name.clone());
        } else if keep {
            self.kept.push(column.name.clone());
            self.new_values.push(match &column.default {
                _ if column.identity => NewValue::Identity,
                default => NewValue::Default(default.clone().unwrap_or_else(|| "NULL".to_owned())),
            });
        } else if column.not_null {
            return Some(Blocker {
                object,
                why: "it is not null, has no default, and the dataset lacks it".to_owned(),
                alternative: "add it to the dataset, or give it a default".to_owned(),
            });
        } else if asked.unwrap_or(options.missing_columns) == MissingColumns::Null {
            self.left_null.push(column.name.clone());
        } else {
            return Some(Blocker {
                object,
                why: "the dataset lacks it, so it would be null in every row".to_owned(),
                alternative: "add it to the dataset, give it a default, or let missing columns be null or keep"
                    .to_owned(),
            });
        }
        None
    }

    /// Key columns that are not loaded, without which no row can be found.
    pub(super) fn missing_key(&self, key: &[String]) -> Vec<Blocker> {
        let missing =
            key.iter().filter(|key| !self.matched.contains(key) || self.added.iter().any(|(name, _)| name == *key));
        missing
            .map(|key| Blocker {
                object: format!("column {key}"),
                why: "it is part of the key, and dataset and table do not both have it".to_owned(),
                alternative: "name key columns that both have".to_owned(),
            })
            .collect()
    }

    /// Settings for columns that the table does not have.
    fn unknown_settings(&self, options: &TargetOptions, live: &Attributes) -> Vec<Blocker> {
        let known = |name: &String| live.columns.iter().any(|column| column.name == *name);
        let named = options.missing.keys().chain(&options.merge.ignore_columns);
        named
            .filter(|name| !known(name) && !self.matched.contains(name))
            .map(|name| Blocker {
                object: format!("column {name}"),
                why: format!("a setting names it, and {} does not have it", options.table),
                alternative: "correct the target's settings".to_owned(),
            })
            .collect()
    }

    fn refused_pairs(&self, dataset: &Schema) -> Vec<Blocker> {
        let Err(EncodePlanError::Pairs(pairs)) = self.encoder(dataset) else { return Vec::new() };
        pairs
            .into_iter()
            .map(|pair| Blocker {
                object: format!("column {}", pair.column),
                why: format!("there is no conversion from {} into {}", pair.from, pair.to),
                alternative: "cast it in the phase".to_owned(),
            })
            .collect()
    }

    /// The encoder of the load.
    pub(super) fn encoder(&self, dataset: &Schema) -> Result<RowEncoder, EncodePlanError> {
        let (indices, columns): (Vec<usize>, Vec<ColumnSchema>) = self.load.iter().cloned().unzip();
        RowEncoder::with_columns(dataset, &indices, &columns, &self.policies)
    }

    /// What is loaded and not left to the server to read: the dataset column's place, the target column, and what the
    /// configuration says about values that do not fit.
    pub(super) fn loaded(&self) -> impl Iterator<Item = (usize, (ColumnSchema, PushPolicy))> {
        let loaded = self.load.iter().filter(|(_, column)| !self.is_cast(column));
        loaded.map(|(index, column)| {
            (*index, (column.clone(), self.policies.get(&column.name).copied().unwrap_or_default()))
        })
    }

    /// Empty tallies of what is loaded from a dataset.
    pub(super) fn tallies(&self, dataset: &Schema) -> Vec<ColumnTally> {
        let tally = |(index, column): &(usize, ColumnSchema)| {
            let from = dataset.fields().get(*index).map_or(&DataType::Null, |field| field.data_type());
            let policy = self.policies.get(&column.name).copied().unwrap_or_default();
            ColumnTally::new(column, *index, from, policy, !self.is_cast(column))
        };
        self.load.iter().map(tally).collect()
    }

    /// The statement that starts the load.
    pub(super) fn copy_statement(&self, into: &TableName) -> String {
        let columns: Vec<String> = self.load.iter().map(|(_, column)| quote_ident(&column.name)).collect();
        format!("COPY {} ({}) FROM STDIN (FORMAT binary, FREEZE)", quote_table(into), columns.join(", "))
    }

    /// Creates the table that takes the load before the server casts it.
    pub(super) fn create_raw(&self, raw: &TableName) -> String {
        let columns: Vec<String> = self
            .load
            .iter()
            .map(|(_, column)| {
                let type_name = if self.is_cast(column) { "text" } else { column.type_name.as_str() };
                format!("{} {type_name}", quote_ident(&column.name))
            })
            .collect();
        format!("CREATE TABLE {} ({}) WITH (autovacuum_enabled = off)", quote_table(raw), columns.join(", "))
    }

    /// Whether rows have to pass through a table of their own before they are what the staging table holds.
    pub(super) fn needs_raw(&self) -> bool {
        !self.cast_by_server.is_empty() || !self.kept.is_empty()
    }

    /// Moves what was loaded into the staging table, casts what is text so far, and takes kept values from the live
    /// table's row with the same key.
    pub(super) fn fill_statement(&self, raw: &TableName, staging: &TableName, options: &TargetOptions) -> String {
        let names: Vec<String> = self.load.iter().map(|(_, column)| quote_ident(&column.name)).collect();
        let casts: Vec<String> =
            self.cast_values().iter().zip(&names).map(|(value, name)| format!("{value} AS {name}")).collect();
        let loaded = format!("(SELECT {} FROM {}) AS new", casts.join(", "), quote_table(raw));
        if self.kept.is_empty() {
            let names = names.join(", ");
            return format!(
                "INSERT INTO {} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {loaded}",
                quote_table(staging)
            );
        }
        let kept = self.kept.iter().map(|name| quote_ident(name));
        let into: Vec<String> = names.iter().cloned().chain(kept).collect();
        let values = names.iter().map(|name| format!("new.{name}"));
        let kept = self.kept.iter().zip(&self.new_values).map(|(name, new)| {
            let new = match new {
                NewValue::Default(default) => default.clone(),
                NewValue::Identity => format!(
                    "pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({}, {})::pg_catalog.regclass)",
                    quote_literal(&quote_table(staging)),
                    quote_literal(name)
                ),
            };
            format!("CASE WHEN live.ctid IS NULL THEN {new} ELSE live.{} END", quote_ident(name))
        });
        let values: Vec<String> = values.chain(kept).collect();
        let key = options.key.iter().map(|key| quote_ident(key)).map(|key| format!("live.{key} = new.{key}"));
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {loaded} LEFT JOIN {} AS live ON {}",
            quote_table(staging),
            into.join(", "),
            values.join(", "),
            quote_table(&options.table),
            key.collect::<Vec<_>>().join(" AND ")
        )
    }

    /// The columns that were loaded, each as a value of its type.
    pub(super) fn cast_values(&self) -> Vec<String> {
        let value = |column: &ColumnSchema| match (quote_ident(&column.name), self.is_cast(column)) {
            (name, true) => format!("{name}::{}", column.type_name),
            (name, false) => name,
        };
        self.load.iter().map(|(_, column)| value(column)).collect()
    }

    /// The columns of the live table as they are loaded: text where the server casts them.
    pub(super) fn raw_values(&self) -> Vec<String> {
        let value = |column: &ColumnSchema| match (quote_ident(&column.name), self.is_cast(column)) {
            (name, true) => format!("{name}::text AS {name}"),
            (name, false) => name,
        };
        self.load.iter().map(|(_, column)| value(column)).collect()
    }

    fn is_cast(&self, column: &ColumnSchema) -> bool {
        self.cast_by_server.contains(&column.name)
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Whether text for a column of this type is left for the server to read: what it reads, it does not round.
fn is_cast(pg_type: &PgType, typmod: i32) -> bool {
    match pg_type {
        PgType::ViaText | PgType::Hstore => true,
        PgType::Array { element: of, .. } | PgType::Range(of) | PgType::Multirange(of) => reads_exactly(of),
        PgType::Composite { fields } => typmod == NO_TYPMOD && fields.iter().all(|field| reads_exactly(&field.of)),
        _ => false,
    }
}

/// Whether no text is read as a value that differs from it.
fn reads_exactly(of: &TypeRef) -> bool {
    match of.pg_type {
        PgType::NumericUnbounded => of.typmod == NO_TYPMOD,
        PgType::Bool
        | PgType::Int2
        | PgType::Int4
        | PgType::Int8
        | PgType::Text
        | PgType::Date
        | PgType::Uuid
        | PgType::Json
        | PgType::Jsonb
        | PgType::Enum { .. }
        | PgType::Inet => true,
        _ => is_cast(&of.pg_type, of.typmod),
    }
}

fn no_type(field: &Field) -> Blocker {
    Blocker {
        object: format!("column {}", field.name()),
        why: format!("there is no Postgres type for {}", field.data_type()),
        alternative: "cast it in the phase".to_owned(),
    }
}

/// The column that a dataset column becomes in a new table.
fn created(field: &Field) -> Option<ColumnSchema> {
    if let DataType::List(inner) | DataType::LargeList(inner) | DataType::FixedSizeList(inner, _) = field.data_type() {
        let mut array = created(&Field::clone(inner).with_name(field.name()))?;
        // Postgres has no arrays of arrays: another dimension is the same type.
        if !matches!(array.pg_type, PgType::Array { .. }) {
            array.type_name.push_str("[]");
            let element = TypeRef { oid: array.type_oid, typmod: array.typmod, pg_type: array.pg_type };
            array.pg_type = PgType::Array { element: Box::new(element), dimensions: 1, lower_bound: 1 };
        }
        return Some(array);
    }
    let simple = |name: &str, oid: u32, pg_type: PgType| Some((name.to_owned(), oid, -1, pg_type));
    let is_json = field.metadata().get("ARROW:extension:name").is_some_and(|name| name == "arrow.json");
    let (type_name, type_oid, typmod, pg_type) = match field.data_type() {
        DataType::Boolean => simple("boolean", 16, PgType::Bool),
        DataType::Int8 | DataType::UInt8 | DataType::Int16 => simple("smallint", 21, PgType::Int2),
        DataType::UInt16 | DataType::Int32 => simple("integer", 23, PgType::Int4),
        DataType::UInt32 | DataType::Int64 => simple("bigint", 20, PgType::Int8),
        DataType::UInt64 => numeric(20, 0),
        DataType::Float32 => simple("real", 700, PgType::Float4),
        DataType::Float64 => simple("double precision", 701, PgType::Float8),
        DataType::Decimal128(precision, scale) => numeric(*precision, *scale),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if is_json => simple("jsonb", 3802, PgType::Jsonb),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(_, _) => {
            simple("text", 25, PgType::Text)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => simple("bytea", 17, PgType::Bytea),
        DataType::FixedSizeBinary(16) => simple("uuid", 2950, PgType::Uuid),
        DataType::Date32 => simple("date", 1082, PgType::Date),
        DataType::Time64(TimeUnit::Microsecond) => simple("time without time zone", 1083, PgType::Time),
        DataType::Timestamp(_, None) => simple("timestamp without time zone", 1114, PgType::Timestamp),
        DataType::Timestamp(_, Some(_)) => simple("timestamp with time zone", 1184, PgType::TimestampTz),
        interval if is_interval(interval) => simple("interval", 1186, PgType::Interval),
        _ => None,
    }?;
    Some(ColumnSchema { name: field.name().clone(), type_name, type_oid, typmod, pg_type, not_null: false })
}

fn numeric(precision: u8, scale: i8) -> Option<(String, u32, i32, PgType)> {
    /// `VARHDRSZ`, which every such `typmod` carries.
    const HEADER: i32 = 4;
    let scale = u8::try_from(scale).ok().filter(|scale| *scale <= precision)?;
    let typmod = (i32::from(precision) << 16 | i32::from(scale)) + HEADER;
    let pg_type = PgType::Numeric { precision: u16::from(precision), scale: i16::from(scale) };
    Some((format!("numeric({precision},{scale})"), 1700, typmod, pg_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_column_has_the_type_that_holds_every_value() {
        let cases = [
            (DataType::UInt32, "bigint"),
            (DataType::UInt64, "numeric(20,0)"),
            (DataType::Decimal128(10, 2), "numeric(10,2)"),
            (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), "timestamp with time zone"),
        ];
        for (from, expected) in cases {
            let column = created(&Field::new("c", from.clone(), true)).expect("a type");
            assert_eq!(column.type_name, expected);
            assert_eq!(PgType::from_catalogue(column.type_oid, column.typmod), Some(column.pg_type), "{from}");
        }
        assert_eq!(created(&Field::new("c", DataType::Null, true)), None);
        let list = |inner| DataType::List(Field::new("element", inner, true).into());
        let nested = created(&Field::new("c", list(list(DataType::Int32)), true)).expect("an array");
        assert_eq!((nested.name.as_str(), nested.type_name.as_str()), ("c", "integer[]"));
    }
}
