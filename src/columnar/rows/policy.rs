//! What the pipeline file says about values that a target column would change or refuse.

use serde::{Deserialize, Serialize};

use crate::wire::Rounding;

/// What is allowed for one target column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PushPolicy {
    /// Digits of decimals and of seconds that the column cannot keep.
    #[serde(rename = "push_rounding")]
    pub rounding: Rounding,
    /// NUL characters inside text.
    #[serde(rename = "push_nul", with = "nul")]
    pub strip_nul: bool,
    /// Values that the column cannot hold.
    #[serde(rename = "push_misfit")]
    pub misfit: OnUnfit,
}

/// What happens to a value that the target column cannot hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnfit {
    /// The push fails and names row and column.
    #[default]
    Error,
    /// It becomes null and is counted.
    Null,
}

/// `error` or `strip`.
mod nul {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum OnNul {
        Error,
        Strip,
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(super) fn serialize<S: Serializer>(strip: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        if *strip { OnNul::Strip } else { OnNul::Error }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        OnNul::deserialize(deserializer).map(|on_nul| matches!(on_nul, OnNul::Strip))
    }
}
