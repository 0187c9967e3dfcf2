//! Whether a push lost anything: what is attached and bound to the table after it, compared with what was before it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::attributes::Attributes;

/// What a new table has of its own.
const VOLATILE: [&str; 3] = ["oid", "bytes", "rows_estimated"];

/// What is not after a push as it was before it, one sentence each.
pub(super) fn differences(before: &Attributes, after: &Attributes) -> Vec<String> {
    let (before, after) = (facts(before), facts(after));
    let things: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let said = things.into_iter().filter_map(|thing| match (before.get(thing), after.get(thing)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(_), Some(_)) => Some(format!("{thing}: not as it was before the push")),
        (Some(_), None) => Some(format!("{thing}: lost by the push")),
        _ => Some(format!("{thing}: not there before the push")),
    });
    said.collect()
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
