//! `config/schema.json`, generated from the schema, for completion and validation in editors. It describes the form of
//! a file; relations between keys are left to `tidegate check`.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use super::reference::facts;
use super::schema::{Fallback, Key, ROOT, Shape};
use crate::base::units::{self, DURATION_UNITS, SIZE_UNITS};

/// The text of `config/schema.json`.
///
/// It says draft-07 and uses only words that draft-04 has as well, which is what Taplo, the engine of most editors for
/// TOML, was written for. Nothing is referred to: next to a `$ref` both drafts ignore descriptions and defaults.
pub fn json_schema() -> String {
    let mut root = Object::default();
    root.put("$schema", "http://json-schema.org/draft-07/schema#");
    root.put("title", "Tidegate's configuration");
    root.put("description", HEAD);
    // A file that others include need not have what the whole must.
    table(&mut root, ROOT, false);
    let mut text = serde_json::to_string_pretty(&root).unwrap_or_default();
    text.push('\n');
    text
}

/// A JSON object in the order of its making: keys stand as in `config/reference.toml`.
#[derive(Default)]
struct Object(Vec<(&'static str, Node)>);

enum Node {
    Value(Value),
    Object(Object),
    Objects(Vec<Object>),
}

impl Object {
    fn put(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, Node::Value(value.into())));
    }

    fn put_object(&mut self, name: &'static str, object: Object) {
        self.0.push((name, Node::Object(object)));
    }

    /// The one that stands here, or any of several.
    fn put_any(&mut self, mut of: Vec<Object>) {
        match of.len() {
            1 => self.0.append(&mut of[0].0),
            _ => self.0.push(("anyOf", Node::Objects(of))),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, node) in &self.0 {
            map.serialize_entry(name, node)?;
        }
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Object(object) => object.serialize(serializer),
            Self::Objects(objects) => objects.serialize(serializer),
        }
    }
}

fn table(out: &mut Object, keys: &'static [Key], is_whole: bool) {
    out.put("type", "object");
    let mut properties = Object::default();
    for key in keys.iter().filter(|key| key.is_here()) {
        properties.put_object(key.name, property(key));
    }
    out.put_object("properties", properties);
    let required = keys.iter().filter(|key| is_whole && matches!(key.fallback, Fallback::Required));
    let required: Vec<&str> = required.map(|key| key.name).collect();
    // Draft-04 has no empty list here.
    if !required.is_empty() {
        out.put("required", required);
    }
    out.put("additionalProperties", false);
}

fn property(key: &'static Key) -> Object {
    let mut out = Object::default();
    // The schema says "a table" itself.
    let facts: Vec<_> = facts(key).into_iter().filter(|fact| fact != "A table.").collect();
    let text = if facts.is_empty() { key.doc.to_owned() } else { format!("{}\n\n{}", key.doc, facts.join(" ")) };
    out.put("description", text);
    match key.fallback {
        Fallback::Flag(flag) => out.put("default", flag),
        Fallback::Only(text) => out.put("default", vec![text]),
        Fallback::Count(count) => out.put("default", count),
        Fallback::Number(number) => out.put("default", number.parse::<f64>().unwrap_or_default()),
        Fallback::Text(text) => out.put("default", text),
        Fallback::Duration(duration) => out.put("default", units::format_duration(duration)),
        Fallback::Size(bytes) => out.put("default", units::format_size(bytes)),
        Fallback::Required | Fallback::Told(_) | Fallback::Table => {}
    }
    out.put_any(forms(&key.shape));
    out
}

/// Every form a value may take.
fn forms(shape: &'static Shape) -> Vec<Object> {
    match shape {
        Shape::Flag => vec![typed("boolean")],
        Shape::Count { min, max } => {
            let mut count = typed("integer");
            count.put("minimum", *min);
            count.put("maximum", *max);
            vec![count]
        }
        Shape::Share => {
            let mut share = typed("number");
            // What excludes the bound itself is written differently in the two drafts.
            share.put("minimum", 0);
            share.put("maximum", 1);
            vec![share]
        }
        Shape::Duration { min, .. } => vec![unit(&DURATION_UNITS, min.is_zero())],
        Shape::Size { min, .. } => vec![unit(&SIZE_UNITS, *min == 0)],
        Shape::Text(_) => vec![typed("string")],
        Shape::Word(word) => vec![words(&[word])],
        Shape::Choice { words: all, .. } => vec![words(all), pattern(VARIABLE)],
        Shape::Either(shapes) => shapes.iter().flat_map(forms).collect(),
        Shape::List(inner) => vec![list(inner)],
        Shape::OneOrMany(inner) => {
            let mut either = forms(inner);
            either.push(list(inner));
            either
        }
        Shape::Map(inner) => vec![named(one(forms(inner)))],
        Shape::Table(keys) => vec![one_table(keys)],
        Shape::Named(keys) => vec![named(one_table(keys))],
        Shape::Tables(keys) => {
            let mut tables = typed("array");
            tables.put_object("items", one_table(keys));
            vec![tables]
        }
        Shape::Unread => Vec::new(),
    }
}

fn typed(name: &'static str) -> Object {
    let mut out = Object::default();
    out.put("type", name);
    out
}

fn words(all: &[&'static str]) -> Object {
    let mut out = typed("string");
    out.put("enum", all.to_vec());
    out
}

fn pattern(pattern: impl Into<String>) -> Object {
    let mut out = typed("string");
    out.put("pattern", pattern.into());
    out
}

/// A number and a unit, or a variable that may hold one.
fn unit(units: &[(&str, u64)], may_be_zero: bool) -> Object {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    let number = if may_be_zero { "[0-9]+" } else { "[0-9]*[1-9][0-9]*" };
    pattern(format!("^{number}({})$|{VARIABLE}", names.join("|")))
}

fn one(forms: Vec<Object>) -> Object {
    let mut out = Object::default();
    out.put_any(forms);
    out
}

fn one_table(keys: &'static [Key]) -> Object {
    let mut out = Object::default();
    table(&mut out, keys, true);
    out
}

fn list(inner: &'static Shape) -> Object {
    let mut out = typed("array");
    out.put_object("items", one(forms(inner)));
    out
}

fn named(inner: Object) -> Object {
    let mut out = typed("object");
    out.put_object("additionalProperties", inner);
    out
}

/// `${NAME}` stands for anything.
const VARIABLE: &str = "\\$\\{";
const HEAD: &str = "The keys of this version of Tidegate. What a file means as a whole - names that must exist, addresses \
                    that clash, files that cannot be read - is told by `tidegate check`.";
