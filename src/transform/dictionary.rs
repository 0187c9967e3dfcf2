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
