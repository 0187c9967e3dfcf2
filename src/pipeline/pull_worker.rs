//! One connection of a pull: takes pieces from the queue, decodes them, and hands batches to its encoder.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::PipelineError;
use super::pull_journal::Journal;
use super::pull_queue::{PIECE_FAILURES_MAX, Piece, PieceQueue};
use super::pull_table::{Pulling, Share};
use crate::columnar::{BatchBuilder, BuildError};
use crate::lake::{DataFile, Lake, LakeError, TableWriter};
use crate::pg::Session;
use crate::progress::{Progress, Step};
use crate::source::{Backoff, CopyLimits, CopyRange, CopyStream, RateLimit, Remedy, SharedSnapshot, SourceError};
use crate::wire::CopyDecoder;

/// Rows of a record batch at most.
const BATCH_ROWS_MAX: usize = 16_384;
/// Wire bytes of a record batch at most.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Batches that wait for the encoder; a slow disk then slows the server down instead of filling memory.
const QUEUED_BATCHES_MAX: usize = 1;
/// Wire bytes after which a worker completes its files of a table, so that a lost connection, or a killed program, costs no
/// more than these. Files of fewer bytes would be too many.
const SHARE_BYTES_MAX: u64 = 128 << 20;
/// Silence from the server for this long in the middle of a copy ends it; a scan that finds no row in this time is stuck.
const STALL_LIMIT: Duration = Duration::from_secs(300);
/// Times that another session is tried before the pull goes on without it, or fails.
const REJOINS_MAX: u32 = 10;
/// The same while none was had yet and the server says that there is none left: it may be the last for this role.
const FIRST_JOINS_MAX: u32 = 3;

/// How often another session is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    failures_max: u32,
    /// Where the server has no connection left.
    refusals_max: u32,
}

impl Patience {
    /// For a session besides others.
    pub(super) const NONE: Self = Self { failures_max: 0, refusals_max: 0 };
    /// For the first besides the one that has the snapshot.
    pub(super) const FIRST: Self = Self { failures_max: REJOINS_MAX, refusals_max: FIRST_JOINS_MAX };
    /// For one that replaces another.
    const REPLACING: Self = Self { failures_max: REJOINS_MAX, refusals_max: REJOINS_MAX };

    fn covers(self, error: &SourceError, failures: u32) -> bool {
        let most = if error.is_not_ready() { self.refusals_max } else { self.failures_max };
        error.remedy() == Remedy::Again && failures < most
    }
}

/// Waits for an answer of the server no longer than the run goes on.
pub(super) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    answer: impl Future<Output = T>,
) -> Result<T, PipelineError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(PipelineError::Cancelled),
        answer = answer => Ok(answer),
    }
}

/// Another session of a snapshot.
pub(super) async fn join(
    snapshot: &SharedSnapshot,
    cancel: &CancellationToken,
    patience: Patience,
) -> Result<Session, PipelineError> {
    let mut backoff = Backoff::default();
    loop {
        match unless_cancelled(cancel, snapshot.join()).await? {
            Err(error) if patience.covers(&error, backoff.failures()) => {
                tracing::debug!(%error, "cannot open another session yet");
                unless_cancelled(cancel, sleep(backoff.pause())).await?;
            }
            Err(error) if error.remedy() == Remedy::StartOver => return Err(SourceError::SnapshotLost.into()),
            outcome => return Ok(outcome?),
        }
    }
}

/// One connection and its encoder.
pub(super) struct Worker {
    pub(super) session: Session,
    /// Where another session can be had; nowhere for the only one that has the snapshot.
    pub(super) snapshot: Option<Arc<SharedSnapshot>>,
    pub(super) rate: Option<Arc<RateLimit>>,
    pub(super) lake: Lake,
    pub(super) pulling: Arc<Vec<Pulling>>,
    pub(super) queue: Arc<PieceQueue>,
    pub(super) journal: Arc<Journal>,
    /// Numbers the writers of all workers, so that no two files have one name.
    pub(super) writers: Arc<AtomicUsize>,
    pub(super) progress: Progress,
    pub(super) step: Step,
    pub(super) cancel: CancellationToken,
}

/// A worker's share of one table, under construction.
struct TableShare {
    index: usize,
    /// What is completely in it.
    pieces: Vec<Piece>,
    bytes: u64,
    rows_sent: u64,
    builder: BatchBuilder,
    encoder: Encoder,
}

impl Worker {
    /// Copies pieces until the queue is empty.
    pub(super) async fn run(mut self) -> Result<Vec<(usize, Share)>, PipelineError> {
        let mut shares = Vec::new();
        let mut current: Option<TableShare> = None;
        while let Some(piece) = self.queue.next() {
            if let Some(done) = current.take_if(|share| !share.takes(piece)) {
                shares.push(self.complete(done).await?);
            }
            let mut share = match current.take() {
                Some(share) => share,
                None => self.begin(piece.table)?,
            };
            match self.copy(&mut share, piece.range).await {
                Ok(()) => {
                    share.pieces.push(piece);
                    current = Some(share);
                }
                Err(error) => {
                    let pieces = share.discard(&self.lake).await?;
                    self.recover(pieces, piece, error).await?;
                }
            }
        }
        if let Some(done) = current {
            shares.push(self.complete(done).await?);
        }
        Ok(shares)
    }

    /// Closes the files, and notes them for the case that the program is killed.
    async fn complete(&self, done: TableShare) -> Result<(usize, Share), PipelineError> {
        let ranges = done.pieces.iter().map(|piece| piece.range).collect();
        let (index, share) = done.finish(&self.pulling).await?;
        self.journal.add(&self.pulling[index].layout.table, ranges, &share).await?;
        Ok((index, share))
    }

    /// Puts back the pieces whose files are thrown away, and opens another session.
    async fn recover(&mut self, pieces: Vec<Piece>, failed: Piece, error: PipelineError) -> Result<(), PipelineError> {
        let PipelineError::Source(error) = error else { return Err(error) };
        let (again, pause) = match error.remedy() {
            Remedy::Again if failed.failures + 1 < PIECE_FAILURES_MAX => {
                let pause = Backoff::after(failed.failures).pause();
                (vec![Piece { failures: failed.failures + 1, ..failed }], Some(pause))
            }
            Remedy::Halves => {
                let halves = failed.range.halves(&self.pulling[failed.table].relation);
                let halves = halves.into_iter().flatten();
                (halves.map(|range| Piece { range, failures: 0, ..failed }).collect(), None)
            }
            _ => (Vec::new(), None),
        };
        if again.is_empty() {
            return Err(error.into());
        }
        let Some(snapshot) = &self.snapshot else { return Err(SourceError::SnapshotLost.into()) };
        let count = pieces.len() + again.len();
        self.progress.warn(self.step, format!("{error}; copying {count} ranges of it again"));
        self.queue.put_back(pieces);
        if let Some(pause) = pause {
            // Nobody else gets to fail at it meanwhile.
            unless_cancelled(&self.cancel, sleep(pause)).await?;
        }
        self.queue.put_back(again);
        self.session = join(snapshot, &self.cancel, Patience::REPLACING).await?;
        Ok(())
    }

    fn begin(&self, index: usize) -> Result<TableShare, PipelineError> {
        let pulling = &self.pulling[index];
        let (schema, layout) = (Arc::clone(&pulling.schema), pulling.layout.clone());
        let number = self.writers.fetch_add(1, Ordering::Relaxed);
        let writer = TableWriter::new(&self.lake, Handle::current(), layout, schema, number)?;
        Ok(TableShare {
            index,
            pieces: Vec::new(),
            bytes: 0,
            rows_sent: 0,
            builder: BatchBuilder::with_policies(&pulling.relation.schema, &pulling.table.columns),
            encoder: Encoder::start(writer),
        })
    }

    async fn copy(&mut self, share: &mut TableShare, range: CopyRange) -> Result<(), PipelineError> {
        let pulling = Arc::clone(&self.pulling);
        let pulling = &pulling[share.index];
        let table = &pulling.relation.schema;
        let decode_failed = |source| PipelineError::Decode { table: table.table.clone(), source };
        let mut decoder = CopyDecoder::new(table.columns.len());
        let limits = CopyLimits { rate: self.rate.clone(), stall: STALL_LIMIT };
        let mut stream =
            CopyStream::open(&mut self.session, &pulling.relation, range, pulling.condition(), limits, &self.cancel)
                .await?;
        while let Some(bytes) = stream.next().await? {
            decoder.push_block(bytes).map_err(decode_failed)?;
            share.take_block(&mut decoder, pulling, range).await?;
        }
        let (received, sent) = (decoder.finish().map_err(decode_failed)?, stream.rows());
        if received != sent {
            return Err(SourceError::Incomplete { table: table.table.clone(), sent, received }.into());
        }
        share.rows_sent += sent;
        Ok(())
    }
}

impl TableShare {
    /// Whether a piece goes into the same files as those before it.
    fn takes(&self, piece: Piece) -> bool {
        let is_first_try = !piece.is_repeated && self.pieces.iter().all(|piece| !piece.is_repeated);
        self.index == piece.table && self.bytes < SHARE_BYTES_MAX && is_first_try
    }

    /// Removes the files; gives the pieces that were in them. The encoder's error, if it has one, is the reason why it
    /// took no more batches.
    async fn discard(self, lake: &Lake) -> Result<Vec<Piece>, PipelineError> {
        for file in self.encoder.finish().await? {
            lake.delete(&file.object()?).await?;
        }
        Ok(self.pieces)
    }

    /// Moves the decoder's tuples into the batch, and a full batch to the encoder.
    async fn take_block(
        &mut self,
        decoder: &mut CopyDecoder,
        pulling: &Pulling,
        range: CopyRange,
    ) -> Result<(), PipelineError> {
        let (block, bytes) = (decoder.block(), decoder.block_bytes());
        self.builder.append(block, bytes).map_err(|source| value_error(pulling, range, source))?;
        pulling.work.add(block.rows() as u64, bytes as u64);
        self.bytes += bytes as u64;
        decoder.clear_block();
        if self.builder.rows() >= BATCH_ROWS_MAX || self.builder.bytes() >= BATCH_BYTES_MAX {
            let batch = self.builder.finish().map_err(|source| value_error(pulling, range, source))?;
            self.encoder.send(batch).await?;
        }
        Ok(())
    }

    /// Encodes the rest and closes the files.
    async fn finish(mut self, pulling: &[Pulling]) -> Result<(usize, Share), PipelineError> {
        let failed = |source| value_error(&pulling[self.index], CopyRange::ALL, source);
        let last = self.builder.finish().map_err(failed)?;
        // An encoder that failed takes no more, and has the reason.
        let _closed = self.encoder.send(last).await;
        let share = Share {
            files: self.encoder.finish().await?,
            rows_sent: self.rows_sent,
            seen: self.builder.numeric_seen(),
            made_null: self.builder.replaced(),
        };
        Ok((self.index, share))
    }
}

fn value_error(pulling: &Pulling, range: CopyRange, source: BuildError) -> PipelineError {
    let place = match (range.from, range.to, &pulling.relation.split) {
        (0, None, _) => "a value cannot be held".to_owned(),
        (_, _, Some(key)) => format!("a value in a range of {} cannot be held", key.column),
        (from, None, None) => format!("a value in the pages from {from} on cannot be held"),
        (from, Some(to), None) => format!("a value in the pages {from} to {} cannot be held", to - 1),
    };
    let place = match range.leaf.and_then(|leaf| pulling.relation.leaf(leaf)) {
        Some(leaf) => format!("{}: {place}", leaf.table),
        None => place,
    };
    PipelineError::Value { table: pulling.table.source.clone(), place, source }
}

/// A thread that encodes the batches sent to it.
struct Encoder {
    batches: mpsc::Sender<RecordBatch>,
    thread: JoinHandle<Result<Vec<DataFile>, LakeError>>,
}

impl Encoder {
    fn start(mut writer: TableWriter) -> Self {
        let (batches, mut queue) = mpsc::channel(QUEUED_BATCHES_MAX);
        let thread = tokio::task::spawn_blocking(move || {
            while let Some(batch) = queue.blocking_recv() {
                writer.write(batch)?;
            }
            writer.finish(false)
        });
        Self { batches, thread }
    }

    /// Waits while the queue is full. An encoder that failed takes no more; [`Encoder::finish`] has its error.
    async fn send(&self, batch: RecordBatch) -> Result<(), PipelineError> {
        self.batches.send(batch).await.map_err(|_| PipelineError::Cancelled)
    }

    async fn finish(self) -> Result<Vec<DataFile>, PipelineError> {
        drop(self.batches);
        Ok(self.thread.await??)
    }
}
