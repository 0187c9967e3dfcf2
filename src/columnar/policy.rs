//! What the pipeline file says about values that do not fit, column by column.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::schema::{ARRAY_DIMENSIONS_MAX, ColumnSchema, DECIMAL_DIGITS_MAX, PgType};
use crate::wire::FieldError;

/// What happens to a value that its column cannot hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMisfit {
    /// The pull fails and names the value's place.
    #[default]
    Error,
    /// It becomes null and is counted.
    Null,
    /// The whole column is kept as text.
    Text,
}

/// What happens to an array of another shape than expected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayShape {
    /// The pull fails and names the value's place.
    #[default]
    Error,
    /// The whole column is kept as text.
    Text,
}

/// How a numeric without a precision, or with more than 38 digits, is kept: `text`, `double` or `decimal(p,s)`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum UnboundedNumeric {
    /// Exact decimal text.
    #[default]
    Text,
    /// The nearest floating-point number.
    Double,
    /// A decimal; a value that does not fit is an error.
    Decimal {
        /// Digits in all.
        precision: u16,
        /// Digits after the point.
        scale: u16,
    },
}

/// A form of numerics that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a form of numerics: expected text, double or decimal(p,s) with at most 38 digits")]
pub struct BadNumericForm(String);

impl FromStr for UnboundedNumeric {
    type Err = BadNumericForm;

    fn from_str(text: &str) -> Result<Self, BadNumericForm> {
        let bad = || BadNumericForm(text.to_owned());
        match text {
            "text" => Ok(Self::Text),
            "double" => Ok(Self::Double),
            _ => {
                let inner = text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')')).ok_or_else(bad)?;
                let (precision, scale) = inner.split_once(',').unwrap_or((inner, "0"));
                let number = |text: &str| text.trim().parse::<u16>().map_err(|_| bad());
                let (precision, scale) = (number(precision)?, number(scale)?);
                let fits = (1..=u16::from(DECIMAL_DIGITS_MAX)).contains(&precision) && scale <= precision;
                fits.then_some(Self::Decimal { precision, scale }).ok_or_else(bad)
            }
        }
    }
}

impl fmt::Display for UnboundedNumeric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Double => f.write_str("double"),
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
        }
    }
}

impl TryFrom<String> for UnboundedNumeric {
    type Error = BadNumericForm;

    fn try_from(text: String) -> Result<Self, BadNumericForm> {
        text.parse()
    }
}

impl From<UnboundedNumeric> for String {
    fn from(form: UnboundedNumeric) -> Self {
        form.to_string()
    }
}

/// What the pipeline file says about one source column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColumnPolicy {
    /// NaN in a decimal column, NaN and infinities in one configured as decimal.
    pub numeric_special: OnMisfit,
    /// A numeric without precision, or with more than 38 digits.
    pub numeric_unbounded: UnboundedNumeric,
    /// Timestamps from 294247-01-10 04:00:54.775807 on.
    pub out_of_range_time: OnMisfit,
    /// Arrays with another number of dimensions or another lower bound.
    pub array_shape: ArrayShape,
    /// Dimensions of the arrays, where the declaration does not say it.
    pub array_dimensions: Option<u8>,
}

/// A policy that its column cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Nulls are not allowed in the column.
    #[error("column {0} is not null, so its setting cannot replace values by null; use \"text\"")]
    NotNull(String),
    /// An impossible number of dimensions.
    #[error("column {column} cannot have arrays of {dimensions} dimensions; expected 1 to {ARRAY_DIMENSIONS_MAX}")]
    Dimensions {
        /// The column.
        column: String,
        /// What the setting says.
        dimensions: u8,
    },
}

impl ColumnPolicy {
    /// Gives a column the type that the policy asks for.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn apply(&self, column: &mut ColumnSchema) -> Result<(), PolicyError> {
        let to_null = [self.numeric_special, self.out_of_range_time].contains(&OnMisfit::Null);
        if to_null && column.not_null {
            return Err(PolicyError::NotNull(column.name.clone()));
        }
        if let Some(dimensions) =
            self.array_dimensions.filter(|declared| !(1..=ARRAY_DIMENSIONS_MAX).contains(&usize::from(*declared)))
        {
            return Err(PolicyError::Dimensions { column: column.name.clone(), dimensions });
        }
        let mut whole_as_text = false;
        column.pg_type.map(&mut |part| match part {
            PgType::NumericUnbounded => match self.numeric_unbounded {
                UnboundedNumeric::Text => {}
                UnboundedNumeric::Double => *part = PgType::NumericAsFloat,
                UnboundedNumeric::Decimal { precision, scale } => {
                    *part = PgType::Numeric { precision, scale: i16::try_from(scale).unwrap_or(0) };
                }
            },
            PgType::Timestamp | PgType::TimestampTz => whole_as_text |= self.out_of_range_time == OnMisfit::Text,
            PgType::Array { dimensions, lower_bound: 1, .. } => {
                whole_as_text |= self.array_shape == ArrayShape::Text;
                *dimensions = self.array_dimensions.unwrap_or(*dimensions);
            }
            _ => {}
        });
        column.pg_type.map(&mut |part| {
            if matches!(part, PgType::Numeric { .. }) && self.numeric_special == OnMisfit::Text {
                // Text keeps the special values as words and is exact, so a decimal is not needed any more.
                *part = PgType::NumericUnbounded;
            }
        });
        if whole_as_text {
            column.pg_type = PgType::ViaText;
        }
        Ok(())
    }

    /// Which values become null.
    pub(super) fn misfits(&self) -> Misfits {
        Misfits {
            numeric: self.numeric_special == OnMisfit::Null,
            time: self.out_of_range_time == OnMisfit::Null,
            replaced: 0,
        }
    }
}

/// Which values of a column become null because they do not fit, and how many did.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Misfits {
    numeric: bool,
    time: bool,
    pub(super) replaced: u64,
}

impl Misfits {
    /// Whether a value that failed so becomes null; counts it.
    pub(super) fn replace(&mut self, reason: &FieldError) -> bool {
        let replaced = match reason {
            FieldError::NotFinite(_) => self.numeric,
            FieldError::OutOfRange(_) => self.time,
            _ => false,
        };
        self.replaced += u64::from(replaced);
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{NO_TYPMOD, TypeRef};

    fn column(pg_type: PgType, not_null: bool) -> ColumnSchema {
        ColumnSchema { name: "c".into(), type_name: String::new(), type_oid: 0, typmod: NO_TYPMOD, pg_type, not_null }
    }

    #[test]
    fn forms_of_numerics_are_read_and_printed_alike() {
        for text in ["text", "double", "decimal(12,3)", "decimal(38,0)"] {
            assert_eq!(text.parse::<UnboundedNumeric>().map(|form| form.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "decimal", "decimal(39,0)", "decimal(0,0)", "decimal(2,3)", "decimal(a,1)"] {
            assert!(text.parse::<UnboundedNumeric>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_policy_reaches_inside_arrays() {
        let numeric = TypeRef { oid: 1700, typmod: NO_TYPMOD, pg_type: PgType::NumericUnbounded };
        let array = PgType::Array { element: Box::new(numeric), dimensions: 1, lower_bound: 1 };
        let mut double = column(array.clone(), false);
        let policy = ColumnPolicy { numeric_unbounded: UnboundedNumeric::Double, ..ColumnPolicy::default() };
        assert_eq!(policy.apply(&mut double), Ok(()));
        assert_eq!(double.pg_type.parts().next(), Some(&PgType::NumericAsFloat));
        let mut text = column(array, true);
        let policy = ColumnPolicy { array_shape: ArrayShape::Text, ..ColumnPolicy::default() };
        assert_eq!(policy.apply(&mut text), Ok(()));
        assert_eq!(text.pg_type, PgType::ViaText);
    }

    #[test]
    fn a_column_that_refuses_nulls_cannot_replace_by_null() {
        let policy = ColumnPolicy { numeric_special: OnMisfit::Null, ..ColumnPolicy::default() };
        let mut column = column(PgType::Numeric { precision: 5, scale: 2 }, true);
        assert_eq!(policy.apply(&mut column), Err(PolicyError::NotNull("c".into())));
    }
}
