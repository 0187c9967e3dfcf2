//! The files of a pipeline: phases with their headers, checks, small data tables, the dictionary of columns.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::relations::{Relations, names_word};
use super::{CheckFile, TransformError};

/// The RaceAlpha phases, for pipelines without a folder of their own.
static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/sql");

/// The name under which queries see the dictionary.
const DICTIONARY_TABLE: &str = "dictionary_columns";

/// One phase file.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// The file's name without its ending, such as `02_career_form_stats`.
    pub name: String,
    /// What one row of its tables stands for.
    pub grain: String,
    /// Tables it reads.
    pub reads: Vec<String>,
    /// Tables it creates.
    pub writes: Vec<String>,
    /// What tells the rows of some of its tables apart; checked when they are made.
    #[serde(skip)]
    pub keys: BTreeMap<String, Vec<String>>,
    /// Why it exists.
    pub why: String,
    /// Whether it runs in the lake, or only on Postgres.
    pub in_lake: bool,
    /// The statements.
    #[serde(skip)]
    pub sql: String,
}

impl Phase {
    /// The part of the name before the first `_`, without leading zeros: `2`, `8b`.
    pub fn number(&self) -> &str {
        let number = self.name.split('_').next().unwrap_or(&self.name).trim_start_matches('0');
        if number.is_empty() { "0" } else { number }
    }

    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}.sql", self.name)
    }
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Tells rows apart.
    Key,
    /// May be given to a model.
    Feature,
    /// An outcome.
    Label,
    /// A feature that is final only at the off.
    Market,
    /// About the row, not about the race.
    Meta,
    /// Must be absent: it knows its own race's outcome.
    Dropped,
}

/// One column of the dictionary.
#[derive(Debug, Clone, Serialize)]
pub struct DictionaryColumn {
    /// The column.
    pub name: String,
    /// Its Postgres type.
    pub pg_type: String,
    /// The feature group.
    pub group: String,
    /// What it is for.
    pub role: Role,
    /// Its definition in a sentence.
    pub description: String,
    /// What its value is computed over: a horse's history, the field of the race, the row.
    pub key: String,
    /// What a null stands for.
    pub null_meaning: String,
}

impl DictionaryColumn {
    /// Whether the dataset must not have it.
    pub fn is_dropped(&self) -> bool {
        self.role == Role::Dropped
    }
}

/// All files of a pipeline's `phases` folder.
#[derive(Debug, Clone)]
pub struct PhaseSet {
    /// Runs before the phases.
    pub prelude: String,
    /// The phases in run order: by name, except that a phase runs after those whose tables it reads.
    pub phases: Vec<Phase>,
    /// Small tables as CSV text, by name.
    pub data: BTreeMap<String, Vec<u8>>,
    /// The checks by name.
    pub checks: Vec<CheckFile>,
    /// The columns of the dataset, and those that must be absent; empty when the pipeline has no dictionary.
    pub dictionary: Vec<DictionaryColumn>,
    /// Changes when any file does.
    pub fingerprint: String,
}

impl PhaseSet {
    /// Reads a folder, or the built-in files.
    ///
    /// # Errors
    /// [`TransformError::Read`], [`TransformError::Header`], [`TransformError::Circle`].
    pub fn load(folder: Option<&Path>) -> Result<Self, TransformError> {
        let files = match folder {
            Some(folder) => read_folder(folder)?,
            None => built_in(&BUILT_IN),
        };
        Self::from_files(&files)
    }

    /// The phase that writes a table in the lake.
    pub fn writer_of(&self, table: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.in_lake && phase.writes.iter().any(|name| name == table))
    }

    /// The SQL file that may read a column of a source table. Column by column the phases are not analysed, so this is
    /// the first file that names the column anywhere, if any file names the table.
    pub fn reader_of(&self, table: &str, column: &str) -> Option<String> {
        let phases = self.phases.iter().filter(|phase| phase.in_lake);
        // The phases that read the table itself are the likeliest.
        let (direct, others): (Vec<_>, Vec<_>) = phases.partition(|phase| phase.reads.iter().any(|name| name == table));
        let is_read = !direct.is_empty();
        let phases = direct.into_iter().chain(others).map(|phase| (phase.file(), &phase.sql));
        let checks = self.checks.iter().flat_map(|check| {
            let sql = check.prepares.iter().chain(&check.observation).chain([&check.offending]);
            sql.map(|sql| (format!("checks/{}.sql", check.name), sql))
        });
        let checks = checks.filter(|(_, sql)| is_read || names_word(sql, table));
        let mut files = phases.filter(|_| is_read).chain(checks);
        files.find(|(_, sql)| names_word(sql, column)).map(|(file, _)| file)
    }

    fn from_files(files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Self, TransformError> {
        let mut hash = Sha256::new();
        let mut set = Self {
            prelude: String::new(),
            phases: Vec::new(),
            data: BTreeMap::new(),
            checks: Vec::new(),
            dictionary: Vec::new(),
            fingerprint: String::new(),
        };
        for (path, content) in files {
            hash.update(path.to_string_lossy().as_bytes());
            hash.update(content);
            let folder = path.parent().and_then(Path::to_str).unwrap_or_default();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            let text = || String::from_utf8_lossy(content).into_owned();
            match (folder, name, extension) {
                ("", "prelude", "sql") => set.prelude = text(),
                ("", "dictionary", "csv") => {
                    set.dictionary = parse_dictionary(content)?;
                    set.data.insert(DICTIONARY_TABLE.to_owned(), content.clone());
                }
                ("", name, "sql") => set.phases.push(parse_phase(name, text())?),
                ("checks", name, "sql") => set.checks.push(CheckFile::parse(name, &text())?),
                ("data", name, "csv") => {
                    set.data.insert(name.to_owned(), content.clone());
                }
                _ => {}
            }
        }
        set.fingerprint = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        for phase in &set.phases {
            check_header(phase, &set.data)?;
        }
        set.phases = in_run_order(set.phases)?;
        Ok(set)
    }
}

fn read_folder(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, TransformError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| TransformError::Read { path, source }
    };
    let mut files = BTreeMap::new();
    for sub in ["", "checks", "data"] {
        let inside = folder.join(sub);
        if !sub.is_empty() && !inside.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&inside).map_err(failed(&inside))? {
            let path = entry.map_err(failed(&inside))?.path();
            if let (true, Some(name)) = (path.is_file(), path.file_name()) {
                files.insert(Path::new(sub).join(name), fs::read(&path).map_err(failed(&path))?);
            }
        }
    }
    Ok(files)
}

fn built_in(folder: &Dir<'_>) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files: BTreeMap<PathBuf, Vec<u8>> =
        folder.files().map(|file| (file.path().to_path_buf(), file.contents().to_vec())).collect();
    for sub in folder.dirs() {
        files.extend(built_in(sub));
    }
    files
}

/// The `-- key: value` lines at the top of a file; a line without a key continues the one before.
pub(super) fn header(sql: &str) -> BTreeMap<String, String> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in sql.lines() {
        let Some(comment) = line.strip_prefix("--") else { break };
        let is_key = |key: &str| !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase());
        match comment.trim().split_once(':').filter(|(key, _)| is_key(key)) {
            Some((key, value)) => {
                values.insert(key.to_owned(), value.trim().to_owned());
                last = Some(key.to_owned());
            }
            None => {
                if let Some(value) = last.as_ref().and_then(|key| values.get_mut(key)) {
                    value.push(' ');
                    value.push_str(comment.trim());
                }
            }
        }
    }
    values
}

/// The names of a list with commas; `-` stands for none.
pub(super) fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "-").map(str::to_owned).collect()
}

/// `a (x), b (x, y)` as tables with their columns; none for anything else.
fn table_keys(list: &str) -> Option<BTreeMap<String, Vec<String>>> {
    let mut keys = BTreeMap::new();
    for part in list.split_inclusive(')') {
        let (table, columns) = part.strip_suffix(')')?.split_once('(')?;
        let (table, columns) = (table.trim_start_matches(',').trim(), names(columns));
        if table.is_empty() || table.contains([',', ' ']) || columns.is_empty() {
            return None;
        }
        keys.insert(table.to_owned(), columns);
    }
    Some(keys)
}

fn parse_phase(name: &str, sql: String) -> Result<Phase, TransformError> {
    let values = header(&sql);
    let value = |key: &str| {
        values.get(key).cloned().ok_or_else(|| TransformError::Header {
            file: format!("{name}.sql"),
            reason: format!("the header has no line `-- {key}: …`"),
        })
    };
    let in_lake = match values.get("engine").map(String::as_str) {
        None | Some("duckdb" | "lake") => true,
        Some("postgres") => false,
        Some(other) => {
            return Err(TransformError::Header {
                file: format!("{name}.sql"),
                reason: format!("engine '{other}' is unknown; expected postgres or no line"),
            });
        }
    };
    let bad = |reason: String| TransformError::Header { file: format!("{name}.sql"), reason };
    let (grain, reads, writes) = (value("grain")?, names(&value("reads")?), names(&value("writes")?));
    let keys = values.get("key").map_or_else(|| Some(BTreeMap::new()), |list| table_keys(list));
    let keys =
        keys.ok_or_else(|| bad("the line `-- key:` is not TABLE (COLUMN, …), TABLE (COLUMN, …), …".to_owned()))?;
    if let Some(table) = keys.keys().find(|table| !writes.contains(table)) {
        return Err(bad(format!("the line `-- key:` names table {table}, which the line `-- writes:` does not name")));
    }
    Ok(Phase { name: name.to_owned(), grain, reads, writes, keys, why: value("why")?, in_lake, sql })
}

/// Compares a header with the tables that the statements really name.
fn check_header(phase: &Phase, data: &BTreeMap<String, Vec<u8>>) -> Result<(), TransformError> {
    let found = match Relations::of(&phase.sql, !phase.in_lake) {
        Ok(found) => found,
        Err(error) => {
            let file = phase.file();
            tracing::warn!(file, %error, "the header cannot be checked: a statement is not in common SQL");
            return Ok(());
        }
    };
    // The lake has the small tables beside the phases as well, Postgres does not.
    let is_given = |name: &String| phase.in_lake && data.contains_key(name);
    let undeclared = |name: &&String| !phase.reads.contains(name) && !is_given(name);
    let problem = if let Some(name) = found.read.iter().find(undeclared) {
        format!("it reads table {name}, which the line `-- reads:` does not name")
    } else if let Some(name) = phase.reads.iter().find(|name| !found.read.contains(*name)) {
        format!("the line `-- reads:` names table {name}, which it does not read")
    } else if let Some(name) = phase.writes.iter().find(|name| !found.created.contains(*name)) {
        format!("the line `-- writes:` names table {name}, which it does not create")
    } else if let Some(name) = found.created.iter().find(|name| !phase.writes.contains(name)) {
        format!("it creates table {name}, which the line `-- writes:` does not name")
    } else {
        return Ok(());
    };
    Err(TransformError::Header { file: phase.file(), reason: problem })
}

fn parse_dictionary(content: &[u8]) -> Result<Vec<DictionaryColumn>, TransformError> {
    let bad = |reason: String| TransformError::Header { file: "dictionary.csv".to_owned(), reason };
    let mut reader = csv::Reader::from_reader(content);
    let row = |row: Result<DictionaryRow, csv::Error>| {
        let row = row.map_err(|error| bad(error.to_string()))?;
        Ok(DictionaryColumn {
            name: row.name,
            pg_type: row.pg_type,
            group: row.group,
            role: row.role,
            description: row.description,
            key: row.key,
            null_meaning: row.null_meaning,
        })
    };
    reader.deserialize().map(row).collect()
}

#[derive(Deserialize)]
struct DictionaryRow {
    name: String,
    pg_type: String,
    group: String,
    role: Role,
    description: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    null_meaning: String,
}

/// Orders phases by name, except that each runs after those that write what it reads.
fn in_run_order(mut waiting: Vec<Phase>) -> Result<Vec<Phase>, TransformError> {
    let mut ordered: Vec<Phase> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let unwritten: BTreeSet<&String> = waiting.iter().flat_map(|phase| &phase.writes).collect();
        let ready = waiting.iter().position(|phase| {
            phase.reads.iter().all(|table| !unwritten.contains(table) || phase.writes.contains(table))
        });
        let Some(ready) = ready else {
            let names: Vec<&str> = waiting.iter().map(|phase| phase.name.as_str()).collect();
            return Err(TransformError::Circle(names.join(", ")));
        };
        ordered.push(waiting.remove(ready));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    fn phase(name: &str, reads: &str, writes: &str) -> (PathBuf, Vec<u8>) {
        let sql = format!("CREATE TABLE {writes} AS SELECT * FROM {};", reads.replace(", ", " JOIN "));
        file(name, reads, writes, &sql)
    }

    fn file(name: &str, reads: &str, writes: &str, sql: &str) -> (PathBuf, Vec<u8>) {
        let text =
            format!("-- grain: g\n-- reads: {reads}\n-- writes: {writes}\n-- why: because\n--      it is so\n{sql}");
        (PathBuf::from(format!("{name}.sql")), text.into_bytes())
    }

    #[test]
    fn a_header_that_is_not_true_is_refused() {
        let refused = |reads: &str, writes: &str| {
            let files =
                BTreeMap::from([file("01_a", reads, writes, "CREATE TABLE a AS SELECT * FROM r JOIN s USING (i)")]);
            PhaseSet::from_files(&files).map_err(|error| error.to_string())
        };
        assert!(refused("r, s", "a").is_ok());
        assert!(refused("r", "a").unwrap_err().contains("it reads table s"));
        assert!(refused("r, s, t", "a").unwrap_err().contains("names table t, which it does not read"));
        assert!(refused("r, s", "a, b").unwrap_err().contains("names table b, which it does not create"));
        assert!(refused("r, s", "-").unwrap_err().contains("it creates table a"));
    }

    #[test]
    fn a_phase_runs_after_those_whose_tables_it_reads() {
        let files = BTreeMap::from([
            phase("01_base", "races", "base"),
            phase("02_career", "base, ratings", "career"),
            phase("08_elo", "races", "ratings"),
        ]);
        let set = PhaseSet::from_files(&files).unwrap();
        let order: Vec<&str> = set.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(order, ["01_base", "08_elo", "02_career"]);
        assert_eq!(set.phases[0].why, "because it is so");
        assert_eq!(set.phases[1].number(), "8");
    }

    #[test]
    fn phases_in_a_circle_are_refused() {
        let files = BTreeMap::from([phase("01_a", "y", "x"), phase("02_b", "x", "y")]);
        assert!(matches!(PhaseSet::from_files(&files), Err(TransformError::Circle(names)) if names == "01_a, 02_b"));
    }

    #[test]
    fn a_header_without_a_line_names_it() {
        let files = BTreeMap::from([(PathBuf::from("01_a.sql"), b"-- grain: x\nSELECT 1".to_vec())]);
        assert_eq!(
            PhaseSet::from_files(&files).unwrap_err().to_string(),
            "01_a.sql: the header has no line `-- reads: …`"
        );
    }

    #[test]
    fn the_keys_of_tables_are_read_and_refused_for_others() {
        let parsed = |key: &str| {
            let text = format!("-- grain: g\n-- reads: r\n-- writes: a, b\n-- key: {key}\n-- why: so\nSELECT 1");
            parse_phase("01_a", text).map(|phase| phase.keys).map_err(|error| error.to_string())
        };
        let keys = parsed("a (x), b (x,\n-- y)").unwrap();
        assert_eq!(keys["a"], ["x"]);
        assert_eq!(keys["b"], ["x", "y"]);
        for wrong in ["a", "a (x", "(x)", "a ()", "a (x) b"] {
            assert!(parsed(wrong).unwrap_err().contains("the line `-- key:` is not TABLE (COLUMN"), "{wrong}");
        }
        assert!(parsed("c (x)").unwrap_err().ends_with("names table c, which the line `-- writes:` does not name"));
    }

    /// A file that cannot be read is let through with a warning, which is not enough for our own.
    #[test]
    fn the_built_in_files_are_complete() {
        let set = PhaseSet::load(None).unwrap();
        for phase in &set.phases {
            Relations::of(&phase.sql, !phase.in_lake).map_err(|error| format!("{}: {error}", phase.file())).unwrap();
        }
        assert_eq!(set.phases.len(), 11);
        assert!(set.phases.iter().any(|phase| phase.number() == "8b") && !set.dictionary.is_empty());
        assert!(set.phases.iter().filter(|phase| !phase.in_lake).map(Phase::number).eq(["7"]));
    }

    /// The views in Postgres have no table of tracks, so they list those outside of Australia, where all others are.
    #[test]
    fn the_views_in_postgres_know_the_locations_of_the_tracks() {
        let set = PhaseSet::load(None).unwrap();
        let mut tracks: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for row in csv::Reader::from_reader(set.data["tracks"].as_slice()).into_records() {
            let row = row.unwrap();
            tracks.entry(row[1].to_owned()).or_default().insert(row[0].to_lowercase());
        }
        assert!(tracks.remove("AU").is_some_and(|names| names.len() > 50));
        let views = set.phases.iter().find(|phase| !phase.in_lake).unwrap();
        let list = views.sql.split_once("VALUES").and_then(|(_, rest)| rest.split_once(") AS countries")).unwrap().0;
        let quoted = |text: &str| text.split('\'').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for country in list.split(']').filter(|country| country.contains("ARRAY[")) {
            let (location, names) = country.split_once("ARRAY[").unwrap();
            listed.insert(quoted(location).remove(0), quoted(names).into_iter().collect());
        }
        assert_eq!(listed, tracks);
    }
}
