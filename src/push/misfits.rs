//! Values of a dataset that the target's columns cannot hold: found by the encoder of a push, without a server.

use std::collections::BTreeMap;

use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use bytes::BytesMut;

use crate::columnar::{EncodeError, EncodePlanError, OnUnfit, PushPolicy, RowEncoder};
use crate::schema::ColumnSchema;

use super::columns::ColumnMatch;
use super::error::Blocker;

/// Rows encoded at once: few enough that a wide table's stay within some megabytes.
const ROWS_AT_ONCE: usize = 1024;

/// Counts the values that do not fit, column by column. What the server is to cast is not looked at.
#[derive(Debug)]
pub struct Misfits {
    encoder: RowEncoder,
    columns: Vec<(ColumnSchema, PushPolicy)>,
    buffer: BytesMut,
}

impl Misfits {
    /// A counter for the columns of a plan.
    ///
    /// # Errors
    /// [`EncodePlanError`] for pairs of types that need a cast.
    pub fn new(columns: &ColumnMatch, dataset: &Schema) -> Result<Self, EncodePlanError> {
        let (indices, columns): (Vec<usize>, Vec<_>) = columns.loaded().unzip();
        let nullable: Vec<ColumnSchema> =
            columns.iter().map(|(column, _)| ColumnSchema { not_null: false, ..column.clone() }).collect();
        let policies = columns.iter().map(|(column, policy)| {
            let counted = PushPolicy { misfit: OnUnfit::Null, ..*policy };
            (column.name.clone(), counted)
        });
        let encoder = RowEncoder::with_columns(dataset, &indices, &nullable, &policies.collect())?;
        Ok(Self { encoder, columns, buffer: BytesMut::new() })
    }

    /// Looks at the rows of a batch.
    ///
    /// # Errors
    /// [`EncodeError`] for a batch that has other columns, and for a value that no rule is about.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        let mut done = 0;
        while done < batch.num_rows() {
            let rows = batch.slice(done, ROWS_AT_ONCE.min(batch.num_rows() - done));
            self.buffer.clear();
            self.encoder.encode(&rows, &mut self.buffer)?;
            done += rows.num_rows();
        }
        Ok(())
    }

    /// Values that do not fit, by column that has any: a null counts where the column cannot be null.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let nulled: BTreeMap<&str, u64> = self.encoder.nulled().collect();
        let columns = self.columns.iter().zip(self.encoder.null_counts());
        let counts = columns.map(|((column, _), nulls)| {
            let nulled = nulled.get(column.name.as_str()).copied().unwrap_or(0);
            // What became null is among the nulls.
            (column.name.clone(), if column.not_null { nulls } else { nulled })
        });
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// The columns whose misfits end a push.
    pub fn blockers(&self) -> Vec<Blocker> {
        let counts = self.counts();
        let refused = self.columns.iter().filter(|(column, policy)| policy.misfit == OnUnfit::Error || column.not_null);
        let blocker = |(column, _): &(ColumnSchema, PushPolicy)| {
            let count = counts.get(&column.name)?;
            let not_null = if column.not_null { " NOT NULL" } else { "" };
            Some(Blocker {
                object: format!("column {}", column.name),
                why: format!("{count} values of the dataset do not fit into {}{not_null}", column.type_name),
                alternative: if column.not_null {
                    "correct them in the phase".to_owned()
                } else {
                    "correct them in the phase, or let them be null with push_misfit".to_owned()
                },
            })
        };
        refused.filter_map(blocker).collect()
    }
}
