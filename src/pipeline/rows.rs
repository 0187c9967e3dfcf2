//! Record batches as a file or stream in one of the formats people ask for.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

/// A format of rows outside the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// Apache Parquet with zstd.
    Parquet,
    /// Comma-separated values with a header row; an empty field is NULL, an interval is an ISO 8601 duration.
    Csv,
    /// Arrow IPC file, also known as Feather.
    Arrow,
    /// One array of objects; a null is left out.
    Json,
}

impl RowFormat {
    /// How files of this format end.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Json => "json",
        }
    }
}

pub(super) type WriteError = Box<dyn std::error::Error + Send + Sync>;

/// Writes batches of one schema.
#[allow(clippy::large_enum_variant, reason = "there is one writer at a time")]
pub(super) enum RowWriter<W: Write + Send> {
    Parquet(Box<ArrowWriter<W>>),
    Csv { writer: arrow::csv::Writer<W>, schema: SchemaRef },
    Arrow(Box<arrow::ipc::writer::FileWriter<W>>),
    Json(arrow::json::ArrayWriter<W>),
}

impl<W: Write + Send> RowWriter<W> {
    pub(super) fn new(output: W, format: RowFormat, schema: &SchemaRef) -> Result<Self, WriteError> {
        Ok(match format {
            RowFormat::Parquet => {
                let zstd = Compression::ZSTD(ZstdLevel::default());
                let properties = WriterProperties::builder().set_compression(zstd).build();
                Self::Parquet(Box::new(ArrowWriter::try_new(output, Arc::clone(schema), Some(properties))?))
            }
            RowFormat::Csv => {
                let schema = Arc::new(Schema::new(schema.fields().iter().map(|f| csv_field(f)).collect::<Vec<_>>()));
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(output);
                // An empty batch makes the header appear also where no row follows.
                writer.write(&RecordBatch::new_empty(Arc::clone(&schema)))?;
                Self::Csv { writer, schema }
            }
            RowFormat::Arrow => Self::Arrow(Box::new(arrow::ipc::writer::FileWriter::try_new(output, schema)?)),
            RowFormat::Json => Self::Json(arrow::json::ArrayWriter::new(output)),
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::Csv { writer, schema } => {
                let columns = batch.columns().iter().map(csv_column).collect();
                writer.write(&RecordBatch::try_new(Arc::clone(schema), columns)?)?;
            }
            Self::Arrow(writer) => writer.write(batch)?,
            Self::Json(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), WriteError> {
        match self {
            Self::Parquet(writer) => {
                writer.close()?;
            }
            Self::Csv { writer, .. } => writer.into_inner().flush()?,
            Self::Arrow(mut writer) => writer.finish()?,
            Self::Json(mut writer) => writer.finish()?,
        }
        Ok(())
    }
}

/// CSV has no nested values; of those the lake holds only intervals as three integers.
fn is_interval(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Struct(parts)
        if parts.iter().map(|part| part.name().as_str()).eq(["months", "days", "micros"]))
}

fn csv_field(field: &Field) -> Field {
    if is_interval(field.data_type()) { Field::new(field.name(), DataType::Utf8, true) } else { field.clone() }
}

fn csv_column(column: &ArrayRef) -> ArrayRef {
    if !is_interval(column.data_type()) {
        return Arc::clone(column);
    }
    let parts = column.as_struct();
    let texts = (0..parts.len()).map(|row| parts.is_valid(row).then(|| iso_duration(parts, row)));
    Arc::new(texts.collect::<StringArray>())
}

fn iso_duration(parts: &StructArray, row: usize) -> String {
    let months = parts.column(0).as_primitive::<Int32Type>().value(row);
    let days = parts.column(1).as_primitive::<Int32Type>().value(row);
    let micros = parts.column(2).as_primitive::<Int64Type>().value(row);
    let (sign, size) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let mut text = format!("P{months}M{days}DT{sign}{}", size / 1_000_000);
    if size % 1_000_000 != 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ".{:06}", size % 1_000_000);
    }
    text.push('S');
    text
}
