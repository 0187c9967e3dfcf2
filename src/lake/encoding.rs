//! How the columns of a table are encoded in its Parquet files.

use arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

/// Rows of a row group: large enough for dictionaries, small enough to skip and to read in parallel.
const ROW_GROUP_ROWS: usize = 250_000;
/// The bounds within which a table may set its own.
const ROW_GROUP_ROWS_BOUNDS: std::ops::RangeInclusive<usize> = 1_000..=10_000_000;
/// Level 1 is the fastest of the usual ones: the encoder is most of a pull's client time, and higher levels win a few
/// percent of size.
const ZSTD_LEVEL: i32 = 1;
/// Negative levels are faster still and compress less.
const ZSTD_LEVEL_BOUNDS: std::ops::RangeInclusive<i32> = -7..=22;
/// A dictionary beyond this size is given up: it would save little, and every column of every open file has one.
const DICTIONARY_BYTES_MAX: usize = 64 << 10;

/// What a table may set about its Parquet files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FileEncoding {
    /// The compression level, -7 to 22.
    pub zstd_level: i32,
    /// Rows of a row group at most, 1 000 to 10 000 000.
    pub row_group_rows: usize,
    /// Columns without a dictionary, because their values hardly repeat.
    pub no_dictionary: Vec<String>,
    /// Columns with a bloom filter, because readers look for single values.
    pub bloom_filters: Vec<String>,
    /// Whether floats take few values, as rates of counts do, so that a dictionary holds them in a third of the bytes.
    #[serde(skip)]
    pub floats_repeat: bool,
}

impl Default for FileEncoding {
    fn default() -> Self {
        Self {
            zstd_level: ZSTD_LEVEL,
            row_group_rows: ROW_GROUP_ROWS,
            no_dictionary: Vec::new(),
            bloom_filters: Vec::new(),
            floats_repeat: false,
        }
    }
}

impl FileEncoding {
    /// What is wrong with the numbers.
    pub(crate) fn bad_number(&self) -> Option<String> {
        let (level, rows) = (self.zstd_level, self.row_group_rows);
        if !ZSTD_LEVEL_BOUNDS.contains(&level) {
            return Some(format!("zstd_level is {level}; it can be -7 to 22"));
        }
        (!ROW_GROUP_ROWS_BOUNDS.contains(&rows))
            .then(|| format!("row_group_rows is {rows}; it can be 1 000 to 10 000 000"))
    }

    /// A column that is named here and not in the table.
    pub(super) fn unknown_column(&self, schema: &Schema) -> Option<&str> {
        let mut named = self.no_dictionary.iter().chain(&self.bloom_filters);
        named.find(|name| schema.column_with_name(name).is_none()).map(String::as_str)
    }

    /// The writer's settings for a table with this key.
    pub(super) fn properties(&self, schema: &Schema, key: &[String]) -> WriterProperties {
        let mut properties = WriterProperties::builder();
        for field in schema.fields() {
            let name = field.name();
            let column = ColumnPath::from(name.as_str());
            // Least and greatest text hardly ever rules out a row group, and finding them compares every value twice.
            if *field.data_type() == DataType::Utf8 && !key.contains(name) {
                properties = properties.set_column_statistics_enabled(column.clone(), EnabledStatistics::None);
            }
            // No value of a whole key repeats, so a dictionary of them is given up in every row group anew.
            if key == [name.as_str()] || self.no_dictionary.contains(name) {
                properties = properties.set_column_dictionary_enabled(column.clone(), false);
            }
            // Differences of whole numbers take a few bits each, as numbers of a dictionary do, and cost a third of
            // looking the values up. Floats that were measured are split into their first bytes, second bytes and so
            // on, of which the compressor makes less than of a dictionary and in half the time. Texts beyond the
            // dictionary have their lengths apart, so that the compressor gets less to do.
            properties = match field.data_type() {
                DataType::Utf8 => properties.set_column_encoding(column.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY),
                DataType::Int32 | DataType::Int64 | DataType::Date32 | DataType::Timestamp(_, _) => properties
                    .set_column_encoding(column.clone(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_dictionary_enabled(column.clone(), false),
                DataType::Float32 | DataType::Float64 if !self.floats_repeat => properties
                    .set_column_encoding(column.clone(), Encoding::BYTE_STREAM_SPLIT)
                    .set_column_dictionary_enabled(column.clone(), false),
                _ => properties,
            };
            if self.bloom_filters.contains(name) {
                let distinct = u64::try_from(self.row_group_rows).unwrap_or(u64::MAX);
                properties = properties
                    .set_column_bloom_filter_enabled(column.clone(), true)
                    .set_column_bloom_filter_max_ndv(column, distinct);
            }
        }
        let level = ZstdLevel::try_new(self.zstd_level).unwrap_or_default();
        properties
            .set_created_by(format!("racealpha {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(self.row_group_rows))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .build()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::metadata::ParquetMetaData;

    use super::*;

    const ROWS: i64 = 4_000;

    fn written(encoding: &FileEncoding, key: &[&str]) -> ParquetMetaData {
        let ids: Int64Array = (0..ROWS).collect();
        let names: StringArray = (0..ROWS).map(|id| Some(format!("horse {}", id % 7))).collect();
        let batch =
            RecordBatch::try_from_iter([("id", Arc::new(ids) as ArrayRef), ("name", Arc::new(names) as ArrayRef)]);
        let batch = batch.unwrap();
        let key: Vec<String> = key.iter().map(|&column| column.to_owned()).collect();
        let properties = encoding.properties(&batch.schema(), &key);
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap()
    }

    fn has_dictionary(file: &ParquetMetaData, column: usize) -> bool {
        file.row_group(0).column(column).dictionary_page_offset().is_some()
    }

    #[test]
    fn a_table_gets_what_its_settings_say() {
        let plain = written(&FileEncoding::default(), &["id"]);
        assert_eq!(plain.num_row_groups(), 1);
        assert!(!has_dictionary(&plain, 0), "a key of one column has no dictionary");
        assert!(has_dictionary(&plain, 1));
        assert_eq!(plain.row_group(0).column(1).bloom_filter_offset(), None);

        let set: FileEncoding = toml::from_str(
            "zstd_level = 19\nrow_group_rows = 1000\nno_dictionary = ['name']\nbloom_filters = ['id', 'name']",
        )
        .unwrap();
        assert_eq!(set.bad_number(), None);
        let file = written(&set, &["id"]);
        assert_eq!(file.num_row_groups(), 4);
        assert!(!has_dictionary(&file, 1));
        assert!(file.row_group(3).columns().iter().all(|column| column.bloom_filter_offset().is_some()));
    }

    #[test]
    fn numbers_out_of_bounds_and_unknown_columns_are_named() {
        let schema = Schema::empty();
        let named = FileEncoding { no_dictionary: vec!["hors".to_owned()], ..FileEncoding::default() };
        assert_eq!(named.unknown_column(&schema), Some("hors"));
        let level = FileEncoding { zstd_level: 23, ..FileEncoding::default() };
        assert_eq!(level.bad_number().as_deref(), Some("zstd_level is 23; it can be -7 to 22"));
        let rows = FileEncoding { row_group_rows: 1, ..FileEncoding::default() };
        assert_eq!(rows.bad_number().as_deref(), Some("row_group_rows is 1; it can be 1 000 to 10 000 000"));
    }
}
