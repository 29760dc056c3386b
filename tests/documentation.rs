//! What the texts promise: links lead somewhere, files they name exist, configurations they show are accepted.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::base::error::Kind;
use tidegate::config::model::LogField;

#[test]
fn links_lead_to_files() {
    let mut broken = Vec::new();
    for (text_path, text) in texts() {
        for link in links(&text) {
            let file = link.split('#').next().unwrap_or_default();
            let outside = ["http:", "https:", "file:", "mailto:"].iter().any(|scheme| link.starts_with(scheme));
            if !outside && !file.is_empty() && !text_path.parent().is_some_and(|folder| folder.join(file).exists()) {
                broken.push(format!("{}: {link}", text_path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn source_files_that_the_architecture_names_exist() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    let named = text.split('`').skip(1).step_by(2).filter(|word| word.contains('/') && !word.contains(' '));
    let missing: Vec<&str> = named
        .filter(|word| word.ends_with(".rs") || word.ends_with('/'))
        .filter(|word| !root().join("src").join(word).exists() && !root().join(word).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn configurations_in_the_texts_are_accepted() {
    let mut seen = 0;
    for (path, text) in texts() {
        for block in blocks(&text, "toml")
            .filter(|block| block.contains("[[listener]]"))
            .filter(|block| ["[[route]]", "\nmode = "].iter().any(|part| block.contains(part)))
        {
            seen += 1;
            if let Err(faults) = tidegate::config::parse(&path.display().to_string(), block) {
                panic!("{}", faults.render(false));
            }
        }
    }
    assert!(seen > 0, "no configuration found in any text");
}

#[test]
fn operations_tell_of_every_outcome_and_of_metrics_and_fields_that_exist() {
    let text = fs::read_to_string(root().join("docs/operations.md")).expect("docs/operations.md");
    let words: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let untold: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).filter(|kind| !words.contains(kind)).collect();
    assert!(untold.is_empty(), "{untold:?}");
    let metrics = fs::read_to_string(root().join("docs/metrics.md")).expect("docs/metrics.md");
    let named = words.iter().filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"));
    let unknown: Vec<_> = named.filter(|name| !metrics.contains(&format!("`{name}`"))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let times = words.iter().filter(|word| word.ends_with("_ms"));
    let unknown: Vec<_> = times.filter(|name| LogField::ALL.iter().all(|facts| facts.name != **name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the project.
fn texts() -> Vec<(PathBuf, String)> {
    let mut folders = vec![root()];
    let mut texts = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && name != "target" && !is_build_folder(&path) {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).expect("a text");
                texts.push((path, text));
            }
        }
    }
    assert!(texts.len() > 3, "only {} texts found", texts.len());
    texts
}

/// cargo marks the folders that it fills.
fn is_build_folder(path: &Path) -> bool {
    path.join("CACHEDIR.TAG").exists()
}

/// The targets of `[…](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// The fenced blocks of one language.
fn blocks<'a>(text: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let fence = format!("```{language}\n");
    let starts: Vec<usize> = text.match_indices(&fence).map(|(at, _)| at + fence.len()).collect();
    starts.into_iter().filter_map(|at| text[at..].split("\n```").next())
}

#[test]
fn links_and_blocks_are_found() {
    let text = "a [b](c.md#d) and [e](f)\n```toml\nx = 1\n```\n```sh\ny\n```\n";
    assert_eq!(links(text).collect::<Vec<_>>(), ["c.md#d", "f"]);
    assert_eq!(blocks(text, "toml").collect::<Vec<_>>(), ["x = 1"]);
}
