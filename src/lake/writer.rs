//! Record batches to Parquet files under a version that is not published yet.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;
use tokio::runtime::Handle;

use super::partition::{self, PartitionKey};
use super::publish::TABLES;
use super::{DataFile, Lake, LakeError, PartitionTransform, ValueRange, Version};

/// Rows of a row group at most: large enough for dictionaries, small enough to skip and to read in parallel.
const ROW_GROUP_ROWS_MAX: usize = 250_000;
/// Encoded bytes that the open row groups of one writer may hold in memory together.
const ROW_GROUP_BYTES_MAX: usize = 6 << 20;
/// A dictionary beyond this size is given up: it would save little, and every column of every open file has one.
const DICTIONARY_BYTES_MAX: usize = 64 << 10;
/// Files one writer keeps open; with more partitions at once the fullest is closed.
const OPEN_FILES_MAX: usize = 32;
/// Encoded bytes are handed to the store in pieces of this size.
const UPLOAD_BYTES: usize = 1 << 20;
/// Size of an uploaded part: the least that object stores take.
const PART_BYTES: usize = 5 << 20;
/// Parts on their way to the store at once.
const PARTS_IN_FLIGHT_MAX: usize = 1;

/// Where a table's files go and how its rows are spread over them.
#[derive(Debug, Clone)]
pub struct TableLayout {
    /// The lake table.
    pub table: String,
    /// The version being written.
    pub version: Version,
    /// Makes file names unique to the run.
    pub run_id: String,
    /// Columns whose least and greatest values the manifest keeps, besides dates and timestamps.
    pub key: Vec<String>,
    /// How rows are spread over folders.
    pub partition_by: Vec<PartitionTransform>,
}

/// Writes one table, or one worker's share of it. Blocking: belongs on a thread that may block.
pub struct TableWriter {
    lake: Lake,
    runtime: Handle,
    layout: TableLayout,
    schema: SchemaRef,
    /// Distinguishes the files of workers that write the same table.
    worker: usize,
    open: HashMap<PartitionKey, OpenFile>,
    files: Vec<DataFile>,
    files_begun: usize,
}

impl std::fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableWriter")
            .field("layout", &self.layout)
            .field("open", &self.open.len())
            .finish_non_exhaustive()
    }
}

impl TableWriter {
    /// A writer for batches of `schema`.
    ///
    /// # Errors
    /// [`LakeError::Partition`] when a partition transform does not fit the schema.
    pub fn new(
        lake: &Lake,
        runtime: Handle,
        layout: TableLayout,
        schema: SchemaRef,
        worker: usize,
    ) -> Result<Self, LakeError> {
        for transform in &layout.partition_by {
            transform.check(&schema).map_err(|reason| LakeError::Partition {
                table: layout.table.clone(),
                transform: transform.to_string(),
                reason,
            })?;
        }
        Ok(Self {
            lake: lake.clone(),
            runtime,
            layout,
            schema,
            worker,
            open: HashMap::new(),
            files: Vec::new(),
            files_begun: 0,
        })
    }

    /// Encodes a batch into the files of its partitions.
    ///
    /// # Errors
    /// [`LakeError::Write`].
    pub fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        let folder = self.folder();
        let pieces =
            partition::split(batch, &self.layout.partition_by).map_err(|source| write_error(&folder, source))?;
        for (key, piece) in pieces {
            if piece.num_rows() > 0 {
                self.file(&key)?.write(&piece)?;
            }
        }
        while self.open.values().map(OpenFile::memory).sum::<usize>() > ROW_GROUP_BYTES_MAX {
            let fullest = self.open.values_mut().max_by_key(|file| file.memory());
            match fullest {
                Some(file) if file.memory() > 0 => file.flush()?,
                _ => break,
            }
        }
        Ok(())
    }

    fn folder(&self) -> Path {
        Path::from(format!("{TABLES}/{}/v={}", self.layout.table, self.layout.version))
    }

    fn file(&mut self, key: &PartitionKey) -> Result<&mut OpenFile, LakeError> {
        if !self.open.contains_key(key) && self.open.len() >= OPEN_FILES_MAX {
            let fullest = self.open.iter().max_by_key(|(_, file)| file.memory()).map(|(key, _)| key.clone());
            if let Some(key) = fullest {
                self.close(&key)?;
            }
        }
        if !self.open.contains_key(key) {
            let file = self.begin(key)?;
            self.open.insert(key.clone(), file);
        }
        Ok(self.open.get_mut(key).expect("the file was opened above"))
    }

    fn begin(&mut self, key: &PartitionKey) -> Result<OpenFile, LakeError> {
        let folders = key.iter().map(|(name, value)| format!("{name}={value}"));
        let name = format!("part-{}-{}-{:05}.parquet", self.layout.run_id, self.worker, self.files_begun);
        let path = self.folder().parts().map(|part| part.as_ref().to_owned()).chain(folders).chain([name]).collect();
        self.files_begun += 1;
        OpenFile::create(&self.lake, self.runtime.clone(), path, &self.schema, &self.layout.key)
    }

    fn close(&mut self, key: &PartitionKey) -> Result<(), LakeError> {
        if let Some(file) = self.open.remove(key) {
            let columns = self.ranged_columns();
            self.files.push(file.close(key, &columns)?);
        }
        Ok(())
    }

    /// The key, date and timestamp columns.
    fn ranged_columns(&self) -> Vec<usize> {
        let fields = self.schema.fields().iter().enumerate();
        fields
            .filter(|(_, field)| {
                matches!(field.data_type(), DataType::Date32 | DataType::Timestamp(_, _))
                    || self.layout.key.contains(field.name())
            })
            .map(|(index, _)| index)
            .collect()
    }

    /// Completes all files. A table without rows gets one empty file when `keep_empty` says so, so that it can be read.
    ///
    /// # Errors
    /// [`LakeError::Write`].
    pub fn finish(mut self, keep_empty: bool) -> Result<Vec<DataFile>, LakeError> {
        if keep_empty && self.files_begun == 0 {
            let key = PartitionKey::new();
            let file = self.begin(&key)?;
            self.open.insert(key, file);
        }
        let mut keys: Vec<PartitionKey> = self.open.keys().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            self.close(&key)?;
        }
        Ok(self.files)
    }
}

fn write_error(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LakeError {
    LakeError::Write { path: path.clone(), source: source.into() }
}

/// What the encoder has written and the store has not taken yet.
#[derive(Debug, Clone, Default)]
struct Encoded(Arc<Mutex<Vec<u8>>>);

impl Encoded {
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self) -> Vec<u8> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::io::Write for Encoded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// One Parquet file being written.
struct OpenFile {
    runtime: Handle,
    path: Path,
    encoder: ArrowWriter<Encoded>,
    encoded: Encoded,
    upload: BufWriter,
    bytes: u64,
}

impl OpenFile {
    fn create(lake: &Lake, runtime: Handle, path: Path, schema: &SchemaRef, key: &[String]) -> Result<Self, LakeError> {
        let encoded = Encoded::default();
        let encoder = ArrowWriter::try_new(encoded.clone(), Arc::clone(schema), Some(properties(schema, key)))
            .map_err(|source| write_error(&path, source))?;
        let upload = BufWriter::with_capacity(Arc::clone(lake.store()), path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT_MAX);
        Ok(Self { runtime, path, encoder, encoded, upload, bytes: 0 })
    }

    /// Encoded bytes of the open row group.
    fn memory(&self) -> usize {
        self.encoder.in_progress_size()
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.encoder.write(batch).map_err(|source| write_error(&self.path, source))?;
        self.hand_over(UPLOAD_BYTES)
    }

    fn flush(&mut self) -> Result<(), LakeError> {
        self.encoder.flush().map_err(|source| write_error(&self.path, source))?;
        self.hand_over(UPLOAD_BYTES)
    }

    /// Gives the store what was encoded, once it is at least `least` bytes.
    fn hand_over(&mut self, least: usize) -> Result<(), LakeError> {
        if self.encoded.len() >= least {
            let bytes = self.encoded.take();
            self.bytes += bytes.len() as u64;
            self.runtime.block_on(self.upload.put(bytes.into())).map_err(|source| write_error(&self.path, source))?;
        }
        Ok(())
    }

    fn close(mut self, key: &PartitionKey, ranged: &[usize]) -> Result<DataFile, LakeError> {
        let metadata = self.encoder.finish().map_err(|source| write_error(&self.path, source))?;
        self.hand_over(0)?;
        self.runtime
            .block_on(tokio::io::AsyncWriteExt::shutdown(&mut self.upload))
            .map_err(|source| write_error(&self.path, source))?;
        Ok(DataFile {
            path: self.path.to_string(),
            rows: u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0),
            bytes: self.bytes,
            partition: key.iter().cloned().collect(),
            ranges: value_ranges(&metadata, ranged),
        })
    }
}

/// How the columns of a table are encoded.
fn properties(schema: &SchemaRef, key: &[String]) -> WriterProperties {
    let mut properties = WriterProperties::builder();
    for field in schema.fields() {
        let column = ColumnPath::from(field.name().as_str());
        // Least and greatest text hardly ever rules out a row group, and finding them compares every value twice.
        if *field.data_type() == DataType::Utf8 && !key.contains(field.name()) {
            properties = properties.set_column_statistics_enabled(column.clone(), EnabledStatistics::None);
        }
        // No value of a whole key repeats, so a dictionary of them is given up in every row group anew.
        if key == [field.name().as_str()] {
            properties = properties.set_column_dictionary_enabled(column, false);
        }
    }
    properties
        .set_created_by(format!("racealpha {}", env!("CARGO_PKG_VERSION")))
        // The default, level 1, is the fastest: the encoder is most of a pull's client time, and higher levels win
        // a few percent of size.
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .build()
}

/// Least and greatest values of top-level columns, from the file's own statistics.
fn value_ranges(metadata: &ParquetMetaData, columns: &[usize]) -> BTreeMap<String, ValueRange> {
    let schema = metadata.file_metadata().schema_descr();
    let mut ranges = BTreeMap::new();
    for leaf in 0..schema.num_columns() {
        let descriptor = schema.column(leaf);
        if !columns.contains(&schema.get_column_root_idx(leaf)) || descriptor.path().parts().len() != 1 {
            continue;
        }
        let statistics = metadata.row_groups().iter().filter_map(|group| group.column(leaf).statistics());
        let range = statistics.filter_map(value_range).reduce(|a, b| ValueRange {
            min: least(a.min, b.min, std::cmp::Ordering::Less),
            max: least(a.max, b.max, std::cmp::Ordering::Greater),
        });
        ranges.extend(range.map(|range| (descriptor.name().to_owned(), range)));
    }
    ranges
}

fn least(a: serde_json::Value, b: serde_json::Value, wanted: std::cmp::Ordering) -> serde_json::Value {
    let ordering = match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_str().cmp(&b.as_str()),
    };
    if ordering == wanted { a } else { b }
}

fn value_range(statistics: &Statistics) -> Option<ValueRange> {
    let (min, max) = match statistics {
        Statistics::Int32(values) => ((*values.min_opt()?).into(), (*values.max_opt()?).into()),
        Statistics::Int64(values) => ((*values.min_opt()?).into(), (*values.max_opt()?).into()),
        Statistics::ByteArray(values) if values.min_is_exact() && values.max_is_exact() => {
            (values.min_opt()?.as_utf8().ok()?.into(), values.max_opt()?.as_utf8().ok()?.into())
        }
        _ => return None,
    };
    Some(ValueRange { min, max })
}
