//! `config/schema.json`: made from the code, and it knows every key. Whether it takes what the program takes is asked of
//! real validators by `tests/schema/check.py`.

use std::path::Path;

use serde_json::Value;
use tidegate::config::json_schema::json_schema;

use crate::keys;

#[test]
fn the_schema_is_what_the_code_says() {
    let made = json_schema();
    let path = Path::new("config/schema.json");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(made == committed, "config/schema.json is stale: UPDATE_REFERENCE=1 cargo test --test config");
}

#[test]
fn every_key_of_this_version_is_in_the_schema_and_no_other() {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap();
    let mut described = Vec::new();
    properties(&schema, "", &mut described);
    described.sort();
    described.dedup();
    let mut keys: Vec<_> = keys::all_keys().into_iter().map(|(path, _)| path).collect();
    keys.sort();
    assert_eq!(described, keys);
}

/// The paths of all properties, through lists, alternatives and named tables.
fn properties(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        assert!(inner["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path}");
        properties(inner, &path, found);
        found.push(path);
    }
    for inner in ["items", "additionalProperties"].into_iter().filter_map(|word| schema.get(word)) {
        properties(inner, path, found);
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten() {
        properties(inner, path, found);
    }
}

/// The files of the table of keys, for validators: `SCHEMA_CASES=FOLDER cargo test --test config`.
#[test]
fn files_with_each_key_are_written_where_asked() {
    let Some(folder) = std::env::var_os("SCHEMA_CASES") else { return };
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).unwrap();
    for (number, (key, text)) in keys::files().into_iter().enumerate() {
        std::fs::write(folder.join(format!("{number:03}-{key}.toml")), text).unwrap();
    }
}
