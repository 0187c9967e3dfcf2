//! One COPY BINARY stream of a range.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{CopyRange, RateLimit, SourceError};
use crate::pg::{CopyOut, RelationInfo, Session, quote_ident, quote_table};
use crate::schema::{ColumnSchema, PgType, TableName};

/// What bounds a copy.
#[derive(Debug, Clone)]
pub struct CopyLimits {
    /// What it may take, together with others.
    pub rate: Option<Arc<RateLimit>>,
    /// How long the server may be silent in the middle. Before its first row it may think as long as it likes: a view may
    /// have much to sort, and a connection that is gone shows by its keepalives.
    pub stall: Duration,
}

/// The COPY BINARY bytes of one range's rows, in blocks of many rows.
#[derive(Debug)]
pub struct CopyStream<'a> {
    copy: CopyOut<'a>,
    table: TableName,
    limits: CopyLimits,
    has_begun: bool,
    cancel: CancellationToken,
}

impl<'a> CopyStream<'a> {
    /// Starts to copy a range, or those rows of it that meet a condition.
    ///
    /// # Errors
    /// [`SourceError::Copy`].
    pub async fn open(
        session: &'a mut Session,
        relation: &RelationInfo,
        range: CopyRange,
        condition: Option<&str>,
        limits: CopyLimits,
        cancel: &CancellationToken,
    ) -> Result<Self, SourceError> {
        let table = &relation.schema.table;
        let failed = |source| SourceError::copy(table, source);
        let copy = session.copy_out(&copy_statement(relation, range, condition)).await.map_err(failed)?;
        Ok(Self { copy, table: table.clone(), limits, has_begun: false, cancel: cancel.clone() })
    }

    /// The next block, once it is within the rate; none at the end.
    ///
    /// # Errors
    /// [`SourceError::Copy`], [`SourceError::Stalled`], [`SourceError::Cancelled`].
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let block = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(SourceError::Cancelled),
            block = within(self.limits.stall, self.has_begun, self.copy.next()) => {
                block.ok_or_else(|| SourceError::Stalled {
                    table: self.table.clone(),
                    seconds: self.limits.stall.as_secs(),
                })?
            }
        };
        let block = block.map_err(|source| SourceError::copy(&self.table, source))?;
        self.has_begun = true;
        if let (Some(rate), Some(block)) = (&self.limits.rate, &block) {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(SourceError::Cancelled),
                () = rate.spend(block.len() as u64) => {}
            }
        }
        Ok(block)
    }

    /// Rows that the server says it sent; known at the end.
    pub fn rows(&self) -> u64 {
        self.copy.rows()
    }
}

/// An answer that comes within the limit, if there is one; none otherwise.
async fn within<T>(limit: Duration, is_limited: bool, answer: impl Future<Output = T>) -> Option<T> {
    if is_limited { timeout(limit, answer).await.ok() } else { Some(answer.await) }
}

/// `COPY (SELECT …)` rather than `COPY table`: it reads views and generated columns too, and takes a condition.
fn copy_statement(relation: &RelationInfo, range: CopyRange, condition: Option<&str>) -> String {
    let columns: Vec<String> = relation.schema.columns.iter().map(selected).collect();
    let table = match range.leaf.and_then(|leaf| relation.leaf(leaf)) {
        Some(leaf) => format!("ONLY {}", quote_table(&leaf.table)),
        None => quote_table(&relation.schema.table),
    };
    let conditions: Vec<String> = range.condition(relation).into_iter().chain(condition.map(str::to_owned)).collect();
    let rows = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!("COPY (SELECT {} FROM {table}{rows}) TO STDOUT (FORMAT binary)", columns.join(", "))
}

fn selected(column: &ColumnSchema) -> String {
    let name = quote_ident(&column.name);
    match column.pg_type {
        // The session's settings decide how values print.
        PgType::ViaText => format!("{name}::text"),
        _ => name,
    }
}
