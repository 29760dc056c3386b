//! The directories and names to watch for changes of given files. Symbolic links are followed like the kernel does, and
//! every link on the path is watched in its directory, so that swapped links (such as Kubernetes' `..data`) are noticed
//! as well as files that are written or replaced.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::config::is_named_by;

/// What a change concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Changed {
    /// The files of the configuration.
    pub configuration: bool,
    /// Certificates, keys, authorities.
    pub certificates: bool,
}

/// Folders, absolute, with what counts in each.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places(BTreeMap<PathBuf, Names>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    exact: BTreeMap<OsString, Changed>,
    /// Patterns of files of the configuration.
    patterns: BTreeSet<String>,
}

impl Changed {
    pub(super) const CONFIGURATION: Self = Self { configuration: true, certificates: false };
    pub(super) const CERTIFICATES: Self = Self { configuration: false, certificates: true };

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            configuration: self.configuration || other.configuration,
            certificates: self.certificates || other.certificates,
        }
    }
}

impl Places {
    /// Adds a file, there or not.
    pub(super) fn add(&mut self, path: &Path, concerns: Changed) {
        let folder = self.trail(path, concerns);
        // The folder itself may be replaced as a whole, by a rename.
        if let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) {
            self.note(above, name, concerns);
        }
    }

    /// Adds the files of a folder whose names a pattern stands for.
    pub(super) fn add_pattern(&mut self, folder: &Path, pattern: &str) {
        let inside = folder.join("?");
        self.add(&inside, Changed::CONFIGURATION);
        let mut within = Self::default();
        let real = within.trail(&inside, Changed::CONFIGURATION);
        let names = self.0.entry(real).or_default();
        names.patterns.insert(pattern.to_owned());
    }

    /// What a change at `path` concerns: of a file in one of the folders, or of a folder itself.
    pub(super) fn concerned(&self, path: &Path) -> Changed {
        let of_folder = self.0.get(path).map_or_else(Changed::default, Names::everything);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return of_folder };
        self.0.get(folder).map_or(of_folder, |names| of_folder.and(names.concerned(name)))
    }

    /// What any change at all may concern.
    pub(super) fn everything(&self) -> Changed {
        self.0.values().fold(Changed::default(), |all, names| all.and(names.everything()))
    }

    pub(super) fn folders(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Follows a path and notes each link, and its last name or the first that is not there. Gives the folder of that.
    fn trail(&mut self, path: &Path, concerns: Changed) -> PathBuf {
        let mut folder = PathBuf::from("/");
        let mut ahead = components(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                folder.pop();
                continue;
            }
            let entry = folder.join(&name);
            match std::fs::symlink_metadata(&entry) {
                Ok(found) if found.is_symlink() && links < MOST_LINKS => {
                    self.note(&folder, &name, concerns);
                    links += 1;
                    let Ok(target) = std::fs::read_link(&entry) else { return folder };
                    if target.is_absolute() {
                        folder = PathBuf::from("/");
                    }
                    for part in components(&target).into_iter().rev() {
                        ahead.push_front(part);
                    }
                }
                Ok(_) if !ahead.is_empty() => folder = entry,
                Ok(_) | Err(_) => {
                    self.note(&folder, &name, concerns);
                    return folder;
                }
            }
        }
        folder
    }

    fn note(&mut self, folder: &Path, name: &OsStr, concerns: Changed) {
        let known = self.0.entry(folder.to_owned()).or_default().exact.entry(name.to_owned()).or_default();
        *known = known.and(concerns);
    }
}

impl Names {
    fn everything(&self) -> Changed {
        let of_patterns = Changed { configuration: !self.patterns.is_empty(), certificates: false };
        self.exact.values().fold(of_patterns, |all, one| all.and(*one))
    }

    fn concerned(&self, name: &OsStr) -> Changed {
        let exact = self.exact.get(name).copied().unwrap_or_default();
        let text = name.to_string_lossy();
        let configuration = self.patterns.iter().any(|pattern| is_named_by(pattern, &text));
        exact.and(Changed { configuration, certificates: false })
    }
}

/// The names of a path, `..` among them.
fn components(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

/// As many as Linux follows.
const MOST_LINKS: u32 = 40;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree {
        _folder: tempfile::TempDir,
        real: PathBuf,
    }

    impl Tree {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let real = folder.path().canonicalize().unwrap();
            Self { _folder: folder, real }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.real.join(name)
        }

        fn folder(&self, name: &str) {
            std::fs::create_dir_all(self.path(name)).unwrap();
        }

        fn file(&self, name: &str) {
            std::fs::write(self.path(name), "").unwrap();
        }

        fn places(&self, file: &str) -> Places {
            let mut places = Places::default();
            places.add(&self.path(file), Changed::CONFIGURATION);
            places
        }

        fn concerns(&self, places: &Places, name: &str) -> bool {
            places.concerned(&self.path(name)).configuration
        }
    }

    #[test]
    fn a_plain_file_counts_by_its_name() {
        let tree = Tree::new();
        tree.folder("etc");
        tree.file("etc/a.toml");
        let places = tree.places("etc/a.toml");
        assert!(tree.concerns(&places, "etc/a.toml"));
        assert!(!tree.concerns(&places, "etc/access.log"));
        assert!(tree.concerns(&places, "etc"), "the folder is replaced");
        assert!(!tree.concerns(&places, "other"));
        assert!(places.concerned(&tree.path("etc/a.toml")) == Changed::CONFIGURATION);
    }

    #[test]
    fn every_link_on_the_way_counts() {
        let tree = Tree::new();
        // As Kubernetes mounts a ConfigMap.
        tree.folder("mount/..2026_1");
        tree.file("mount/..2026_1/tidegate.toml");
        symlink("..2026_1", tree.path("mount/..data")).unwrap();
        symlink("..data/tidegate.toml", tree.path("mount/tidegate.toml")).unwrap();
        let places = tree.places("mount/tidegate.toml");
        for name in ["mount/tidegate.toml", "mount/..data", "mount/..2026_1/tidegate.toml", "mount/..2026_1"] {
            assert!(tree.concerns(&places, name), "{name} {places:?}");
        }
        assert!(!tree.concerns(&places, "mount/..data_tmp"));
        // Another folder behind the link is another set of places.
        tree.folder("mount/..2026_2");
        tree.file("mount/..2026_2/tidegate.toml");
        std::fs::remove_file(tree.path("mount/..data")).unwrap();
        symlink("..2026_2", tree.path("mount/..data")).unwrap();
        assert_ne!(tree.places("mount/tidegate.toml"), places);
    }

    #[test]
    fn a_file_that_is_not_there_is_waited_for_where_the_way_ends() {
        let tree = Tree::new();
        let places = tree.places("etc/sites/a.toml");
        assert!(tree.concerns(&places, "etc"));
        tree.folder("etc");
        assert!(tree.concerns(&tree.places("etc/sites/a.toml"), "etc/sites"));
        assert!(tree.concerns(&tree.places("etc/../etc/sites/a.toml"), "etc/sites"));
        symlink("gone", tree.path("link")).unwrap();
        let places = tree.places("link");
        assert!(tree.concerns(&places, "link") && tree.concerns(&places, "gone"));
    }

    #[test]
    fn links_that_lead_in_a_circle_end() {
        let tree = Tree::new();
        symlink("b", tree.path("a")).unwrap();
        symlink("a", tree.path("b")).unwrap();
        let places = tree.places("a");
        assert!(tree.concerns(&places, "a") && tree.concerns(&places, "b"));
    }

    #[test]
    fn a_pattern_counts_for_the_names_it_stands_for() {
        let tree = Tree::new();
        tree.folder("sites");
        symlink("sites", tree.path("link")).unwrap();
        let mut places = Places::default();
        places.add_pattern(&tree.path("link"), "*.toml");
        assert!(tree.concerns(&places, "sites/new.toml") && tree.concerns(&places, "link"));
        assert!(!tree.concerns(&places, "sites/new.toml~") && !tree.concerns(&places, "sites/.new.toml"));
        assert!(tree.concerns(&places, "sites"));
    }

    #[test]
    fn a_file_may_concern_both() {
        let tree = Tree::new();
        let mut places = tree.places("a");
        places.add(&tree.path("a"), Changed::CERTIFICATES);
        places.add(&tree.path("b"), Changed::CERTIFICATES);
        let both = Changed { configuration: true, certificates: true };
        assert_eq!(places.concerned(&tree.path("a")), both);
        assert_eq!(places.concerned(&tree.path("b")), Changed::CERTIFICATES);
        assert_eq!(places.concerned(&tree.real), both);
        assert_eq!(places.everything(), both);
        assert_eq!(tree.places("a").everything(), Changed::CONFIGURATION);
    }
}
