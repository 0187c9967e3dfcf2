//! Record batches into the staging table, through one COPY BINARY stream.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::pin::pin;
use std::time::Instant;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use tokio_postgres::Client;

use crate::columnar::EncodeError;
use crate::progress::Work;
use crate::schema::{RowValues, TableName};
use crate::wire::{COPY_HEADER, COPY_TRAILER};

use super::columns::ColumnMatch;
use super::error::{BoxError, PushError};
use super::merge;
use super::options::TargetOptions;
use super::tally::ColumnTally;

/// Bytes sent in one message, about: large enough that the cost per message disappears, small enough to stay in the
/// cache between encoder and socket.
const MESSAGE_BYTES: usize = 512 << 10;
/// Rows encoded before their size is known.
const FIRST_ROWS: usize = 256;
/// Rows encoded at once at most.
const ROWS_MAX: usize = 16 << 10;

/// The finished dataset: what a push puts in place of the live table.
#[derive(Debug)]
pub struct Dataset<S> {
    /// The columns of every batch.
    pub schema: SchemaRef,
    /// Rows in all; checked against what arrives.
    pub rows: u64,
    /// The rows.
    pub batches: S,
}

/// What a load did.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Nulls sent, by column in the order of the load.
    pub(super) nulls: Vec<u64>,
    /// What the lake holds of it, by column in the order of the load.
    pub(super) tallies: Vec<ColumnTally>,
    /// Values that became null because they did not fit, by column.
    pub(super) nulled: BTreeMap<String, u64>,
    pub(super) seconds: f64,
}

/// Copies all batches into a table, in the session's open transaction, at a rate of so many megabytes per second at most.
/// Rows take about as much of the write-ahead log as they take on the way.
pub(super) async fn load<S>(
    client: &Client,
    options: &TargetOptions,
    into: &TableName,
    columns: &ColumnMatch,
    dataset: Dataset<S>,
    work: &Work,
    rate: Option<NonZeroU32>,
) -> Result<Loaded, PushError>
where
    S: Stream<Item = Result<RecordBatch, BoxError>> + Send,
{
    let table = &options.table;
    let failed = |source| PushError::at("load the staging table", table, source);
    let mut encoder =
        columns.encoder(&dataset.schema).map_err(|source| PushError::Encode { table: table.clone(), source })?;
    let started = Instant::now();
    let mut sink = pin!(client.copy_in::<_, Bytes>(&columns.copy_statement(into)).await.map_err(failed)?);
    let mut buffer = BytesMut::from(COPY_HEADER.as_slice());
    let mut bytes = 0;
    let mut tallies = columns.tallies(&dataset.schema);
    let mut batches = pin!(dataset.batches);
    let mut rows_at_once = FIRST_ROWS;
    while let Some(batch) = batches.next().await {
        let batch = batch.map_err(|source| PushError::Dataset { table: table.clone(), source })?;
        for tally in &mut tallies {
            tally.add(&batch);
        }
        let mut done = 0;
        while done < batch.num_rows() {
            let slice = batch.slice(done, rows_at_once.min(batch.num_rows() - done));
            let before = buffer.len();
            encoder.encode(&slice, &mut buffer).map_err(|error| refused(options, &dataset.schema, &slice, error))?;
            done += slice.num_rows();
            let added = buffer.len() - before;
            rows_at_once = (MESSAGE_BYTES * slice.num_rows() / added.max(1)).clamp(1, ROWS_MAX);
            work.add(to_u64(slice.num_rows()), to_u64(added));
            if buffer.len() >= MESSAGE_BYTES / 2 {
                bytes += to_u64(buffer.len());
                within(options, sink.feed(buffer.split().freeze())).await?;
                if let Some(rate) = rate {
                    tokio::time::sleep(merge::due(bytes, rate).saturating_sub(started.elapsed())).await;
                }
            }
        }
    }
    if encoder.rows() != dataset.rows {
        let what = format!("the dataset has {} rows and should have {}", encoder.rows(), dataset.rows);
        return Err(PushError::Verify { table: table.clone(), what });
    }
    buffer.extend_from_slice(&COPY_TRAILER);
    bytes += to_u64(buffer.len());
    within(options, sink.feed(buffer.freeze())).await?;
    let rows = within(options, sink.as_mut().finish()).await?;
    if rows != encoder.rows() {
        let what = format!("the server counted {rows} rows of {}", encoder.rows());
        return Err(PushError::Verify { table: table.clone(), what });
    }
    let nulled: BTreeMap<String, u64> = encoder.nulled().map(|(name, count)| (name.to_owned(), count)).collect();
    for tally in &mut tallies {
        if let Some(count) = nulled.get(tally.name()) {
            tally.without(*count);
        }
    }
    Ok(Loaded {
        rows,
        bytes,
        nulls: encoder.null_counts().collect(),
        tallies,
        nulled,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Waits until a message is taken or answered, and gives up a server that is silent for too long.
async fn within<T>(
    options: &TargetOptions,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, PushError> {
    let (step, table) = ("load the staging table", &options.table);
    match tokio::time::timeout(options.silence_max, work).await {
        Ok(done) => done.map_err(|source| PushError::at(step, table, source)),
        Err(_) => Err(PushError::Lost { step, table: table.clone(), source: None }),
    }
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Names the row, and its key to whoever ran the push.
fn refused(options: &TargetOptions, schema: &Schema, slice: &RecordBatch, error: EncodeError) -> PushError {
    let table = options.table.clone();
    match error {
        EncodeError::Value { column, row, batch_row, reason } => {
            let key = key_of(options, schema, slice, batch_row);
            PushError::Value { table, column, row, reason, key }
        }
        error => PushError::Dataset { table, source: Box::new(error) },
    }
}

fn key_of(options: &TargetOptions, schema: &Schema, slice: &RecordBatch, row: usize) -> RowValues {
    let parts = options.key.iter().filter_map(|key| {
        let column = slice.columns().get(schema.index_of(key).ok()?)?;
        let formats = FormatOptions::new().with_null("null");
        let value = ArrayFormatter::try_new(column.as_ref(), &formats).ok()?.value(row).try_to_string().ok()?;
        Some(format!("{key}={value}"))
    });
    let key = parts.collect::<Vec<_>>().join(", ");
    RowValues(if key.is_empty() { "the row has no key".to_owned() } else { format!("the row has {key}") })
}
