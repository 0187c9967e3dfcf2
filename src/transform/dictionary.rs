//! What the dictionary says of a table's columns, as metadata of the fields: Parquet files and manifests carry it.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::phase::{DictionaryColumn, Role};
use crate::schema::DESCRIPTION_KEY;

const GROUP_KEY: &str = "group";
const ROLE_KEY: &str = "role";
const NULL_MEANING_KEY: &str = "null_meaning";

/// The same schema with description, group, role and meaning of null of every column that the dictionary has.
pub fn describe_fields(schema: &SchemaRef, dictionary: &[DictionaryColumn]) -> SchemaRef {
    let described = |field: &Arc<Field>| match dictionary.iter().find(|column| column.name == *field.name()) {
        Some(column) => Arc::new(described(field, column)),
        None => Arc::clone(field),
    };
    let fields: Vec<Arc<Field>> = schema.fields().iter().map(described).collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

fn described(field: &Field, column: &DictionaryColumn) -> Field {
    let said = [
        (DESCRIPTION_KEY, column.description.as_str()),
        (GROUP_KEY, &column.group),
        (ROLE_KEY, column.role.as_str()),
        (NULL_MEANING_KEY, &column.null_meaning),
    ];
    let mut metadata = field.metadata().clone();
    metadata.extend(
        said.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), text.to_owned())),
    );
    field.clone().with_metadata(metadata)
}

impl DictionaryColumn {
    /// The column's type as DuckDB names it; none of a type that has no counterpart there, which is not compared.
    pub fn lake_type(&self) -> Option<String> {
        lake_type(&self.pg_type)
    }
}

fn lake_type(pg_type: &str) -> Option<String> {
    let name = pg_type.trim().to_lowercase();
    if let Some(element) = name.strip_suffix("[]") {
        return Some(format!("{}[]", lake_type(element)?));
    }
    let (base, parameters) = match name.split_once('(') {
        Some((base, rest)) => (base.trim_end(), Some(rest.trim_end().strip_suffix(')')?)),
        None => (name.as_str(), None),
    };
    let known = match (base, parameters) {
        ("numeric" | "decimal", Some(parameters)) => {
            let (precision, scale) = parameters.split_once(',').unwrap_or((parameters, "0"));
            return Some(format!("DECIMAL({},{})", precision.trim(), scale.trim()));
        }
        ("text" | "varchar" | "character varying", _) => "VARCHAR",
        ("boolean" | "bool", None) => "BOOLEAN",
        ("smallint" | "int2", None) => "SMALLINT",
        ("integer" | "int" | "int4", None) => "INTEGER",
        ("bigint" | "int8", None) => "BIGINT",
        ("real" | "float4", None) => "FLOAT",
        ("double precision" | "float8", None) => "DOUBLE",
        ("date", None) => "DATE",
        ("time" | "time without time zone", None) => "TIME",
        ("timestamp" | "timestamp without time zone", None) => "TIMESTAMP",
        ("timestamptz" | "timestamp with time zone", None) => "TIMESTAMP WITH TIME ZONE",
        ("uuid", None) => "UUID",
        ("json" | "jsonb", None) => "JSON",
        ("bytea", None) => "BLOB",
        _ => return None,
    };
    Some(known.to_owned())
}

impl Role {
    /// The word that the dictionary uses.
    fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Feature => "feature",
            Self::Label => "label",
            Self::Market => "market",
            Self::Meta => "meta",
            Self::Dropped => "dropped",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_types_have_duckdb_names() {
        let known = |pg_type: &str| lake_type(pg_type).unwrap_or_default();
        assert_eq!(known("double precision"), "DOUBLE");
        assert_eq!(known("numeric(12, 2)"), "DECIMAL(12,2)");
        assert_eq!(known("Numeric(5)"), "DECIMAL(5,0)");
        assert_eq!(known("character varying(20)"), "VARCHAR");
        assert_eq!(known("integer[]"), "INTEGER[]");
        assert_eq!(known("timestamptz"), "TIMESTAMP WITH TIME ZONE");
        for other in ["numeric", "int4range", "char(3)", "public.mood", "numeric(3"] {
            assert_eq!(lake_type(other), None, "{other}");
        }
    }
}
