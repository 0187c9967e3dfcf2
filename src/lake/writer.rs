//! Record batches to Parquet files under a version that is not published yet.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::mem;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use tokio::runtime::Handle;

use super::encoding::FileEncoding;
use super::partition::{self, PartitionKey};
use super::publish::TABLES;
use super::{DataFile, Lake, LakeError, PartitionTransform, ValueRange, Version};

/// Encoded bytes that the open row groups of one writer may hold in memory together.
const ROW_GROUP_BYTES_MAX: usize = 6 << 20;
/// Files one writer keeps open; with more partitions at once the fullest is closed.
const OPEN_FILES_MAX: usize = 32;
/// Encoded bytes are handed to the store in parts of this size.
const PART_BYTES: usize = 1 << 20;
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
    /// How its columns are encoded.
    pub encoding: FileEncoding,
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
    /// [`LakeError::Partition`] when a partition transform does not fit the schema; [`LakeError::Encoding`] when the
    /// encoding names a column that is not there.
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
        if let Some(column) = layout.encoding.unknown_column(&schema) {
            return Err(LakeError::Encoding { table: layout.table, column: column.to_owned() });
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
        let properties = self.layout.encoding.properties(&self.schema, &self.layout.key);
        OpenFile::create(&self.lake, self.runtime.clone(), path, &self.schema, properties)
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

/// Takes encoded bytes to the store, a part at a time.
struct Upload {
    runtime: Handle,
    store: BufWriter,
    part: Vec<u8>,
    /// Bytes that the store was given.
    bytes: u64,
}

impl Upload {
    fn hand_over(&mut self) -> io::Result<()> {
        let part = mem::replace(&mut self.part, Vec::with_capacity(PART_BYTES));
        self.bytes += part.len() as u64;
        Ok(self.runtime.block_on(self.store.put(part.into()))?)
    }

    /// Completes the object; gives its size.
    fn finish(&mut self) -> io::Result<u64> {
        self.hand_over()?;
        self.runtime.block_on(tokio::io::AsyncWriteExt::shutdown(&mut self.store))?;
        Ok(self.bytes)
    }
}

impl io::Write for Upload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.len() >= PART_BYTES {
            self.hand_over()?;
        }
        let taken = bytes.len().min(PART_BYTES - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One Parquet file being written.
struct OpenFile {
    path: Path,
    encoder: ArrowWriter<Upload>,
}

impl OpenFile {
    fn create(
        lake: &Lake,
        runtime: Handle,
        path: Path,
        schema: &SchemaRef,
        properties: WriterProperties,
    ) -> Result<Self, LakeError> {
        let store = BufWriter::with_capacity(Arc::clone(lake.store()), path.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_IN_FLIGHT_MAX);
        let upload = Upload { runtime, store, part: Vec::new(), bytes: 0 };
        let encoder = ArrowWriter::try_new(upload, Arc::clone(schema), Some(properties))
            .map_err(|source| write_error(&path, source))?;
        Ok(Self { path, encoder })
    }

    /// Encoded bytes of the open row group.
    fn memory(&self) -> usize {
        self.encoder.in_progress_size()
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.encoder.write(batch).map_err(|source| write_error(&self.path, source))
    }

    fn flush(&mut self) -> Result<(), LakeError> {
        self.encoder.flush().map_err(|source| write_error(&self.path, source))
    }

    fn close(mut self, key: &PartitionKey, ranged: &[usize]) -> Result<DataFile, LakeError> {
        let metadata = self.encoder.finish().map_err(|source| write_error(&self.path, source))?;
        let bytes = self.encoder.inner_mut().finish().map_err(|source| write_error(&self.path, source))?;
        Ok(DataFile {
            path: self.path.to_string(),
            rows: u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0),
            bytes,
            partition: key.iter().cloned().collect(),
            ranges: value_ranges(&metadata, ranged),
        })
    }
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
