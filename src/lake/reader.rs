//! Record batches of a lake table, file after file.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::{DataFile, Lake, LakeError, LakeTable};

/// Rows of one batch: wide rows times this many stay within a few megabytes.
const BATCH_ROWS: usize = 8192;

/// Streams a table's rows in file order. Memory: one batch and the compressed row group it comes from.
pub fn read_table(lake: &Lake, table: &LakeTable) -> impl Stream<Item = Result<RecordBatch, LakeError>> + use<> {
    let lake = lake.clone();
    let open = move |file: DataFile| {
        let lake = lake.clone();
        async move { read_file(&lake, &file).await }
    };
    stream::iter(table.files.clone()).then(open).try_flatten()
}

/// Streams a file's rows in their order.
///
/// # Errors
/// [`LakeError::Read`].
pub async fn read_file(
    lake: &Lake,
    file: &DataFile,
) -> Result<impl Stream<Item = Result<RecordBatch, LakeError>> + use<>, LakeError> {
    let path = file.object()?;
    let object = StoredFile { store: Arc::clone(lake.store()), path: path.clone(), bytes: file.bytes };
    let failed = move |source: ParquetError| LakeError::Read { path: path.clone(), source: source.into() };
    let builder = ParquetRecordBatchStreamBuilder::new(object).await.map_err(failed.clone())?;
    let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(failed.clone())?;
    Ok(batches.map_err(failed))
}

/// A data file in the object store.
struct StoredFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.store.get_range(&self.path, range).map_err(|error| ParquetError::External(error.into())).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            let pieces = self.store.get_ranges(&self.path, &ranges).await;
            pieces.map_err(|error| ParquetError::External(error.into()))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.bytes;
        ParquetMetaDataReader::new().load_and_finish(self, bytes).map_ok(Arc::new).boxed()
    }
}
