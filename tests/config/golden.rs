//! Faults as they are printed: each `golden/NAME.toml` has its text in `golden/NAME.txt`.
//! `UPDATE_GOLDEN=1 cargo test --test config` writes the texts anew; read them before committing.

use std::path::Path;

use tidegate::config;

#[test]
fn faults_are_printed_as_before() {
    let directory = Path::new("tests/config/golden");
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    assert!(names.len() >= 7);
    for name in names {
        let text = std::fs::read_to_string(directory.join(&name)).unwrap();
        let printed = match config::parse_with(&name, &text, &|_| None) {
            Ok(config) => config::summary(&config),
            Err(faults) => faults.render(false),
        };
        let expected = directory.join(&name).with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &printed).unwrap();
        }
        let expected = std::fs::read_to_string(&expected).unwrap_or_default();
        assert!(printed == expected, "{name}: now\n{printed}\nbefore\n{expected}");
    }
}
