use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// How long a change may take to be told.
const PATIENCE: Duration = Duration::from_secs(20);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    /// As an editor saves: beside it, then over it.
    fn replace(&self, name: &str, text: &str) {
        self.write("beside~", text);
        std::fs::rename(self.path("beside~"), self.path(name)).unwrap();
    }
}

/// A watch that has come to rest.
async fn watching(wanted: Watched) -> FileWatch {
    let mut watch = FileWatch::default();
    let all =
        Changed { configuration: !wanted.configuration.is_empty(), certificates: !wanted.certificates.is_empty() };
    watch.watch(wanted);
    assert_eq!(next(&mut watch).await, all, "what was written since it was read counts");
    watch
}

fn files(configuration: &[&Path], certificates: &[&Path]) -> Watched {
    let owned = |paths: &[&Path]| paths.iter().map(|path| (*path).to_owned()).collect();
    Watched { configuration: owned(configuration), searched: vec![], certificates: owned(certificates) }
}

async fn next(watch: &mut FileWatch) -> Changed {
    tokio::time::timeout(PATIENCE, watch.changed()).await.expect("no change was told")
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn writing_and_renaming_over_a_file_are_changes() {
    run(async {
        let folder = Folder::new();
        folder.write("a.toml", "1");
        folder.write("a.pem", "1");
        let mut watch = watching(files(&[&folder.path("a.toml")], &[&folder.path("a.pem")])).await;
        for _ in 0..2 {
            folder.replace("a.toml", "2");
            assert_eq!(next(&mut watch).await, Changed::CONFIGURATION);
            folder.write("a.pem", "2");
            assert_eq!(next(&mut watch).await, Changed::CERTIFICATES);
            // What is told belongs to this alone: the neighbour is none of ours.
            folder.write("access.log", "x");
        }
        folder.write("a.toml", "3");
        folder.write("a.pem", "3");
        assert_eq!(next(&mut watch).await, Changed { configuration: true, certificates: true });
    });
}

#[test]
fn a_file_that_goes_and_comes_back_is_seen_each_time() {
    run(async {
        let folder = Folder::new();
        folder.write("etc/a.toml", "1");
        let file = folder.path("etc/a.toml");
        let mut watch = watching(files(&[&file], &[])).await;
        for _ in 0..2 {
            std::fs::remove_file(&file).unwrap();
            assert!(next(&mut watch).await.configuration);
            folder.write("etc/a.toml", "2");
            assert!(next(&mut watch).await.configuration);
            // With its folder.
            std::fs::remove_dir_all(folder.path("etc")).unwrap();
            assert!(next(&mut watch).await.configuration);
            folder.write("etc/a.toml", "3");
            while !file.exists() || !next(&mut watch).await.configuration {}
        }
    });
}

#[test]
fn a_folder_behind_a_link_that_is_swapped_is_seen() {
    run(async {
        let folder = Folder::new();
        folder.write("mount/..1/a.toml", "1");
        symlink("..1", folder.path("mount/..data")).unwrap();
        symlink("..data/a.toml", folder.path("mount/a.toml")).unwrap();
        let mut watch = watching(files(&[&folder.path("mount/a.toml")], &[])).await;
        for next_one in ["..2", "..3", "..4"] {
            // As the kubelet does it.
            folder.write(&format!("mount/{next_one}/a.toml"), next_one);
            symlink(next_one, folder.path("mount/..data_tmp")).unwrap();
            let before = std::fs::read_link(folder.path("mount/..data")).unwrap();
            std::fs::rename(folder.path("mount/..data_tmp"), folder.path("mount/..data")).unwrap();
            std::fs::remove_dir_all(folder.path("mount").join(before)).unwrap();
            assert!(next(&mut watch).await.configuration);
            assert_eq!(std::fs::read_to_string(folder.path("mount/a.toml")).unwrap(), next_one);
            // The other folder may have changed before it was watched.
            assert!(next(&mut watch).await.configuration);
        }
    });
}

#[test]
fn files_that_match_a_pattern_are_seen_when_they_come() {
    run(async {
        let folder = Folder::new();
        folder.write("main.toml", "");
        let searched = vec![(folder.path("sites"), "*.toml".to_owned())];
        let wanted = Watched { searched, ..files(&[&folder.path("main.toml")], &[]) };
        let mut watch = watching(wanted).await;
        folder.write("sites/a.toml", "");
        assert!(next(&mut watch).await.configuration);
        assert!(next(&mut watch).await.configuration, "the folder is new");
        folder.write("sites/b.txt", "");
        folder.write("sites/b.toml", "");
        assert_eq!(next(&mut watch).await, Changed::CONFIGURATION);
    });
}

#[test]
fn reading_is_no_change() {
    run(async {
        let folder = Folder::new();
        folder.write("a.toml", "1");
        folder.write("a.pem", "1");
        let mut watch = watching(files(&[&folder.path("a.toml")], &[&folder.path("a.pem")])).await;
        std::fs::read(folder.path("a.toml")).unwrap();
        folder.write("a.pem", "2");
        assert_eq!(next(&mut watch).await, Changed::CERTIFICATES);
    });
}

#[test]
fn a_series_of_changes_is_told_once_it_rests_or_has_lasted_too_long() {
    let begun = Instant::now();
    let at = |ms: u64| begun + Duration::from_millis(ms);
    let mut rest = Rest::default();
    assert_eq!(rest.due(), None);
    rest.note(at(0));
    assert_eq!(rest.due(), Some(at(200)));
    for ms in (100..=1_700).step_by(100) {
        rest.note(at(ms));
    }
    assert_eq!(rest.due(), Some(at(1_900)));
    rest.note(at(1_900));
    assert_eq!(rest.due(), Some(at(2_000)));
}

#[test]
fn a_folder_that_cannot_be_watched_is_looked_at_now_and_then() {
    run(async {
        let folder = Folder::new();
        folder.write("a.toml", "1");
        let mut watch = watching(files(&[&folder.path("a.toml")], &[])).await;
        assert!(watch.look.is_none());
        folder.write("x/a.pem", "1");
        watch.places = Arc::new(files(&[], &[&folder.path("x/a.pem")]).places());
        // Gone between the look at it and the watch.
        std::fs::remove_dir_all(folder.path("x")).unwrap();
        assert!(watch.watch_folders().is_err());
        watch.look = Some(Instant::now());
        assert_eq!(next(&mut watch).await, Changed::CONFIGURATION);
        assert!(watch.look.is_none(), "it is watched again");
    });
}
