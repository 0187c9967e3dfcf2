//! One COPY BINARY stream of a range.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{CopyRange, SourceError};
use crate::pg::{CopyOut, Session, quote_ident, quote_table};
use crate::schema::{TableName, TableSchema};

/// Silence from the server for this long ends a copy; a scan that finds no row in this time is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// The COPY BINARY bytes of one range's rows, in blocks of many rows.
#[derive(Debug)]
pub struct CopyStream<'a> {
    copy: CopyOut<'a>,
    table: TableName,
    cancel: CancellationToken,
}

impl<'a> CopyStream<'a> {
    /// Starts to copy a range.
    ///
    /// # Errors
    /// [`SourceError::Copy`].
    pub async fn open(
        session: &'a mut Session,
        table: &TableSchema,
        range: CopyRange,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Copy { table: table.table.clone(), source };
        let copy = session.copy_out(&copy_statement(table, range)).await.map_err(failed)?;
        Ok(Self { copy, table: table.table.clone(), cancel: cancel.clone() })
    }

    /// The next block; none at the end.
    ///
    /// # Errors
    /// [`SourceError::Copy`], [`SourceError::Stalled`], [`SourceError::Cancelled`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let block = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(SourceError::Cancelled),
            block = timeout(STALL_LIMIT, self.copy.next()) => block.map_err(|_| SourceError::Stalled {
                table: self.table.clone(),
                seconds: STALL_LIMIT.as_secs(),
            })?,
        };
        block.map_err(|source| SourceError::Copy { table: self.table.clone(), source })
    }

    /// Rows that the server says it sent; known at the end.
    pub fn rows(&self) -> u64 {
        self.copy.rows()
    }
}

/// `COPY (SELECT …)` rather than `COPY table`: it reads views and generated columns too, and takes a condition.
fn copy_statement(table: &TableSchema, range: CopyRange) -> String {
    let columns: Vec<String> = table.columns.iter().map(|column| quote_ident(&column.name)).collect();
    format!(
        "COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT binary)",
        columns.join(", "),
        quote_table(&table.table),
        range.condition()
    )
}
