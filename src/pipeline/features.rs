//! The documentation of the dataset's columns, from the phases' headers and the dictionary.

use std::fmt::Write;

use serde::Serialize;

use super::{Context, PipelineError};
use crate::transform::{DictionaryColumn, Phase, Role};

/// What the phases make.
#[derive(Debug, Clone, Serialize)]
pub struct FeatureReport {
    /// The dataset.
    pub dataset: String,
    /// The phases in run order.
    pub phases: Vec<Phase>,
    /// The columns of the dictionary, those that must be absent included.
    pub columns: Vec<DictionaryColumn>,
}

/// Reads what the pipeline's files say of phases and columns.
///
/// # Errors
/// [`PipelineError::Transform`] when the phase files cannot be read.
pub fn features(context: &Context) -> Result<FeatureReport, PipelineError> {
    let set = context.phases()?;
    Ok(FeatureReport { dataset: context.pipeline.dataset.name.clone(), phases: set.phases, columns: set.dictionary })
}

impl FeatureReport {
    /// The same as a document.
    pub fn markdown(&self) -> String {
        markdown(&self.dataset, &self.phases, &self.columns)
    }
}

fn markdown(dataset: &str, phases: &[Phase], columns: &[DictionaryColumn]) -> String {
    let kept = columns.iter().filter(|column| column.role != Role::Dropped).count();
    let mut text = format!(
        "# Features\n\nThe columns of `{dataset}` and the phases that make them. \
         Made by `racealpha features`; edit the headers in `sql/` and `sql/dictionary.csv` instead.\n\n\
         ## Phases\n\nIn the order in which they run.\n\n| Phase | One row is | Why |\n|---|---|---|\n"
    );
    for phase in phases {
        let place = if phase.in_lake { "" } else { " (in Postgres)" };
        line(&mut text, &[&format!("`{}`{place}", phase.name), &phase.grain, &phase.why]);
    }
    put(
        &mut text,
        format_args!(
            "\n## Columns\n\n{kept} columns. The type is Postgres'. A label is an outcome and never a feature; a market\ncolumn is final only at the off.\n"
        ),
    );
    let mut groups: Vec<&str> = Vec::new();
    for column in columns {
        if column.role != Role::Dropped && !groups.contains(&column.group.as_str()) {
            groups.push(&column.group);
        }
    }
    let of = |role_fits: fn(Role) -> bool, group: Option<&str>| -> Vec<&DictionaryColumn> {
        let in_group = |column: &&DictionaryColumn| group.is_none_or(|group| column.group == group);
        columns.iter().filter(in_group).filter(|column| role_fits(column.role)).collect()
    };
    for group in groups {
        put(
            &mut text,
            format_args!("\n### {group}\n\n| Column | Type | Over | Definition | Null |\n|---|---|---|---|---|\n"),
        );
        for column in of(|role| role != Role::Dropped, Some(group)) {
            let name = match column.role {
                Role::Key => format!("`{}` (key)", column.name),
                Role::Label => format!("`{}` (label)", column.name),
                Role::Market => format!("`{}` (market)", column.name),
                _ => format!("`{}`", column.name),
            };
            line(&mut text, &[&name, &column.pg_type, &column.key, &column.description, &column.null_meaning]);
        }
    }
    let dropped = of(|role| role == Role::Dropped, None);
    if !dropped.is_empty() {
        text.push_str("\n## Left out\n\nThese know the outcome of their own race and must be absent.\n\n| Column | What it is |\n|---|---|\n");
        for column in dropped {
            line(&mut text, &[&format!("`{}`", column.name), &column.description]);
        }
    }
    text
}

fn line(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    put(text, format_args!("| {} |\n", cells.join(" | ")));
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes every text");
}
