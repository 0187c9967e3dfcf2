//! Whether a push lost anything: what is attached and bound to the table after it, compared with what was before it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::attributes::Attributes;

/// What a new table has of its own.
const VOLATILE: [&str; 3] = ["oid", "bytes", "rows_estimated"];

/// Something that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    /// What, such as `columns name` or `indexes by_name`.
    pub(super) thing: String,
    is: &'static str,
}

impl Difference {
    /// One sentence about it; `what` is what was to change nothing.
    pub(super) fn after(&self, what: &str) -> String {
        format!("{}: {} {what}", self.thing, self.is)
    }

    /// The thing as a warning about it alone names it.
    pub(super) fn singular(&self) -> String {
        let one = |(many, one)| Some(format!("{one} {}", self.thing.strip_prefix(many)?));
        let forms = [("columns ", "column"), ("indexes ", "index"), ("constraints ", "constraint")];
        forms.into_iter().find_map(one).unwrap_or_else(|| self.thing.clone())
    }
}

/// What is not after a push or a rollback as it was before it.
pub(super) fn differences(before: &Attributes, after: &Attributes) -> Vec<Difference> {
    let (before, after) = (facts(before), facts(after));
    let things: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let different = things.into_iter().filter_map(|thing| {
        let is = match (before.get(thing), after.get(thing)) {
            (Some(before), Some(after)) if before == after => return None,
            (Some(_), Some(_)) => "not as it was before the",
            (Some(_), None) => "lost by the",
            _ => "not there before the",
        };
        Some(Difference { thing: thing.clone(), is })
    });
    different.collect()
}

/// What is to be equal, by what it is about.
fn facts(attributes: &Attributes) -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    // Names and texts always make JSON.
    collect(String::new(), serde_json::to_value(attributes).unwrap_or_default(), &mut facts);
    facts
}

fn collect(about: String, value: Value, facts: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if about.is_empty() || about == "dependents" => {
            for (name, member) in members.into_iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str())) {
                collect(name, member, facts);
            }
        }
        Value::Array(elements) if elements.iter().all(|element| name_of(element).is_some()) => {
            for element in elements {
                let name = name_of(&element).unwrap_or_default();
                facts.insert(format!("{about} {name}"), stable(element));
            }
        }
        value => {
            facts.insert(about, stable(value));
        }
    }
}

fn name_of(element: &Value) -> Option<String> {
    let text = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let relation = element.get("relation").and_then(|relation| text(relation, "name"));
    text(element, "object").or_else(|| text(element, "name")).or(relation)
}

fn stable(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(name, _)| !VOLATILE.contains(&name.as_str()));
            Value::Object(members.map(|(name, member)| (name, stable(member))).collect())
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(stable).collect()),
        value => value,
    }
}
