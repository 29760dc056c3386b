//! `include`: expands patterns to files, in byte order of their paths.

use std::path::{Component, Path, PathBuf};

/// The files that a pattern names; `*` and `?` stand for anything but a slash. `searched` gets each directory that was
/// looked into, with the pattern of names there.
///
/// # Errors
/// What the system says about a directory that cannot be read; a directory that is not there holds nothing.
pub(crate) fn expand(
    directory: &Path,
    pattern: &str,
    searched: &mut Vec<(PathBuf, String)>,
) -> std::io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    let whole = directory.join(pattern);
    for component in whole.components() {
        let name = match component {
            Component::Normal(name) => name.to_string_lossy().into_owned(),
            other => {
                found.iter_mut().for_each(|path| path.push(other));
                continue;
            }
        };
        if !is_pattern(&name) {
            found.iter_mut().for_each(|path| path.push(&name));
            continue;
        }
        let mut next = Vec::new();
        for path in &found {
            searched.push((path.clone(), name.clone()));
            next.extend(matching(path, &name)?);
        }
        found = next;
    }
    found.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
    Ok(found)
}

/// Whether a text holds `*` or `?`.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn matching(directory: &Path, pattern: &str) -> std::io::Result<Vec<PathBuf>> {
    let shown = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let entries = match std::fs::read_dir(shown) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if is_named_by(pattern, &name.to_string_lossy()) {
            found.push(directory.join(&name));
        }
    }
    Ok(found)
}

/// Whether a pattern of one name, without slashes, stands for `name`.
pub fn is_named_by(pattern: &str, name: &str) -> bool {
    // As in a shell: editors leave hidden copies beside a file.
    (!name.starts_with('.') || pattern.starts_with('.')) && matches(pattern.as_bytes(), name.as_bytes())
}

/// Matches with one point to go back to, so that no pattern takes more than the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".toml", true),
            ("*.toml", "a.toml~", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("", "", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn sorts_by_bytes_and_passes_over_hidden_files() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.toml", "B.toml", "a.toml", ".h.toml", "c.txt"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let mut searched = Vec::new();
        let names: Vec<_> = expand(directory.path(), "*.toml", &mut searched)
            .unwrap()
            .into_iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["B.toml", "a.toml", "b.toml"]);
        assert!(expand(directory.path(), "none/*.toml", &mut searched).unwrap().is_empty());
        let folder = directory.path().to_owned();
        let none = folder.join("none");
        assert_eq!(searched, [(folder, "*.toml".to_owned()), (none, "*.toml".to_owned())]);
    }
}
