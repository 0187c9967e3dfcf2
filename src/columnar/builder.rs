//! Blocks of wire tuples to record batches, one column at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;

use super::column::ColumnBuilder;
use super::mapping::schema_for;
use super::policy::ColumnPolicy;
use crate::schema::{ColumnSchema, TableSchema};
use crate::wire::{FieldError, TupleBlock};

/// Fields that are taken column by column at once: they and their bytes stay in the processor's nearest cache.
const FIELDS_AT_ONCE: usize = 2048;

/// Why tuples could not become arrays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A value that its Arrow type cannot hold, or bytes that are no value.
    #[error("column {column}, row {row}: {reason}{}", .byte.map(|byte| format!(" (byte {byte} of the stream)")).unwrap_or_default())]
    Value {
        /// The column's name.
        column: String,
        /// Rows before it among those that the builder was given.
        row: u64,
        /// Where the field begins in its stream, while its block is there.
        byte: Option<u64>,
        /// What is wrong with the value.
        reason: FieldError,
    },
    /// Arrow refused the finished columns.
    #[error("cannot assemble a record batch")]
    Assemble(#[from] ArrowError),
}

/// The widest values an unbounded `numeric` column held, from which a reader may choose a decimal type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NumericSeen {
    /// Digits before the point at most.
    pub integer_digits: u32,
    /// Digits after the point at most.
    pub scale: u32,
    /// Whether `NaN` or an infinity occurred.
    pub special: bool,
}

impl NumericSeen {
    /// The widest of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            integer_digits: self.integer_digits.max(other.integer_digits),
            scale: self.scale.max(other.scale),
            special: self.special || other.special,
        }
    }
}

/// Collects blocks of tuples into record batches of one table's schema.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    bytes: usize,
    rows_before: u64,
}

impl BatchBuilder {
    /// A builder for a table's columns in order.
    pub fn new(table: &TableSchema) -> Self {
        Self::with_policies(table, &BTreeMap::new())
    }

    /// The same, with what the configuration says about values that do not fit, by column. The columns' types are
    /// those that [`ColumnPolicy::apply`] left.
    pub fn with_policies(table: &TableSchema, policies: &BTreeMap<String, ColumnPolicy>) -> Self {
        let misfits = |name: &str| policies.get(name).map(ColumnPolicy::misfits).unwrap_or_default();
        let column = |column: &ColumnSchema| ColumnBuilder::new(&column.pg_type, misfits(&column.name));
        Self {
            schema: schema_for(table),
            columns: table.columns.iter().map(column).collect(),
            rows: 0,
            bytes: 0,
            rows_before: 0,
        }
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Appends a block of tuples, column by column.
    ///
    /// # Errors
    /// [`BuildError::Value`] names the column and the row; the builder cannot be used after it.
    pub fn append(&mut self, block: TupleBlock<'_>, block_bytes: usize) -> Result<(), BuildError> {
        for part in block.parts(FIELDS_AT_ONCE) {
            for (index, column) in self.columns.iter_mut().enumerate() {
                column.append(part.column(index)).map_err(|(row, reason)| BuildError::Value {
                    column: self.schema.field(index).name().clone(),
                    row: self.rows_before + (self.rows + row) as u64,
                    byte: Some(part.position(row, index)),
                    reason,
                })?;
            }
            self.rows += part.rows();
        }
        self.bytes += block_bytes;
        Ok(())
    }

    /// Rows in the unfinished batch.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Wire bytes in the unfinished batch.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes what was appended so far as one batch.
    ///
    /// # Errors
    /// [`BuildError::Value`] for text that is not UTF-8; [`BuildError::Assemble`] when Arrow refuses the columns,
    /// which would be our bug.
    pub fn finish(&mut self) -> Result<RecordBatch, BuildError> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        for (index, column) in self.columns.iter_mut().enumerate() {
            let array = column.finish().map_err(|(row, reason)| BuildError::Value {
                column: self.schema.field(index).name().clone(),
                row: self.rows_before + row as u64,
                byte: None,
                reason,
            })?;
            arrays.push(array);
        }
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)?;
        self.rows_before += self.rows as u64;
        self.rows = 0;
        self.bytes = 0;
        Ok(batch)
    }

    /// The widest values of each unbounded `numeric` column so far, by column index.
    pub fn numeric_seen(&self) -> Vec<Option<NumericSeen>> {
        self.columns.iter().map(ColumnBuilder::numeric_seen).collect()
    }

    /// How many values of each column a policy has replaced by null so far.
    pub fn replaced(&self) -> Vec<u64> {
        self.columns.iter().map(ColumnBuilder::replaced).collect()
    }
}
