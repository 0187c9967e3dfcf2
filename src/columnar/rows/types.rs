//! One expression over arrays of several types: what is common to integers, floats, texts or bytes is written once.

/// Runs an expression with `$array` bound to the array as one of the integer types.
macro_rules! with_integers {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Int8 => {
                let $array = $source.as_primitive::<Int8Type>();
                $body
            }
            DataType::Int16 => {
                let $array = $source.as_primitive::<Int16Type>();
                $body
            }
            DataType::Int32 => {
                let $array = $source.as_primitive::<Int32Type>();
                $body
            }
            DataType::Int64 => {
                let $array = $source.as_primitive::<Int64Type>();
                $body
            }
            DataType::UInt8 => {
                let $array = $source.as_primitive::<UInt8Type>();
                $body
            }
            DataType::UInt16 => {
                let $array = $source.as_primitive::<UInt16Type>();
                $body
            }
            DataType::UInt32 => {
                let $array = $source.as_primitive::<UInt32Type>();
                $body
            }
            _ => {
                let $array = $source.as_primitive::<UInt64Type>();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the float types.
macro_rules! with_floats {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Float32 => {
                let $array = $source.as_primitive::<Float32Type>();
                $body
            }
            _ => {
                let $array = $source.as_primitive::<Float64Type>();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the text types.
macro_rules! with_text {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Utf8 => {
                let $array = $source.as_string::<i32>();
                $body
            }
            DataType::LargeUtf8 => {
                let $array = $source.as_string::<i64>();
                $body
            }
            _ => {
                let $array = $source.as_string_view();
                $body
            }
        }
    };
}

/// Runs an expression with `$array` bound to the array as one of the binary types.
macro_rules! with_bytes {
    ($source:expr, $array:ident => $body:expr) => {
        match $source.data_type() {
            DataType::Binary => {
                let $array = $source.as_binary::<i32>();
                $body
            }
            DataType::LargeBinary => {
                let $array = $source.as_binary::<i64>();
                $body
            }
            _ => {
                let $array = $source.as_binary_view();
                $body
            }
        }
    };
}

pub(super) use {with_bytes, with_floats, with_integers, with_text};
