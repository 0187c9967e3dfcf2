//! One COPY BINARY stream of a range.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;
use tokio_postgres::{Client, CopyOutStream};
use tokio_util::sync::CancellationToken;

use super::{CopyRange, SourceError};
use crate::pg::{quote_ident, quote_table};
use crate::schema::{TableName, TableSchema};

/// Silence from the server for this long ends a copy; a scan that finds no row in this time is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(300);

/// The COPY BINARY bytes of one range's rows, in the pieces the server sends.
pub struct CopyStream {
    stream: Pin<Box<CopyOutStream>>,
    table: TableName,
    cancel: CancellationToken,
}

impl std::fmt::Debug for CopyStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyStream").field("table", &self.table).finish_non_exhaustive()
    }
}

impl CopyStream {
    /// Starts to copy a range.
    ///
    /// # Errors
    /// [`SourceError::Copy`].
    pub async fn open(
        client: &Client,
        table: &TableSchema,
        range: CopyRange,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Copy { table: table.table.clone(), source };
        let stream = client.copy_out(&copy_statement(table, range)).await.map_err(failed)?;
        Ok(Self { stream: Box::pin(stream), table: table.table.clone(), cancel: cancel.clone() })
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`SourceError::Copy`], [`SourceError::Stalled`], [`SourceError::Cancelled`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        // Every row is a piece of its own, and most are there already: only a wait needs a timer and a way out.
        let piece = match self.stream.next().now_or_never() {
            Some(piece) => piece,
            None => self.wait().await?,
        };
        piece.transpose().map_err(|source| SourceError::Copy { table: self.table.clone(), source })
    }

    async fn wait(&mut self) -> Result<Option<Result<Bytes, tokio_postgres::Error>>, SourceError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(SourceError::Cancelled),
            piece = timeout(STALL_LIMIT, self.stream.next()) => piece.map_err(|_| SourceError::Stalled {
                table: self.table.clone(),
                seconds: STALL_LIMIT.as_secs(),
            }),
        }
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
