//! `server.user` and `server.group`: looked up when a configuration is compiled, and applied once everything that needs
//! root is done. There is no way back: reloads run as the new user.

use std::ffi::CString;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::process::{geteuid, getuid};
use tracing::{info, warn};

use super::reload::Refused;
use crate::config::Faults;
use crate::config::model::{Identity, Place};
use crate::net::sys::{self, User};

/// A user and a group that this system knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As the configuration writes the user.
    written: Arc<str>,
    uid: u32,
    gid: u32,
    /// Whose further groups are taken; `None`: the number has no name.
    name: Option<CString>,
}

/// Finds the user and the group of a configuration.
///
/// # Errors
/// Each of the two that this system does not know, at its place.
pub fn find(identity: &Identity) -> Result<Account, Faults> {
    let mut faults = Faults::new();
    let user = found_user(identity, &mut faults);
    let group = match &identity.group {
        Some((group, place)) => found_group(group, place, &mut faults),
        None => None,
    };
    let Some(user) = user.filter(|_| faults.is_empty()) else { return Err(faults) };
    let (uid, name) = (user.uid, (!user.name.is_empty()).then_some(user.name));
    Ok(Account { written: Arc::clone(&identity.user), uid, gid: group.unwrap_or(user.gid), name })
}

fn found_user(identity: &Identity, faults: &mut Faults) -> Option<User> {
    let user = &*identity.user;
    let number = user.parse::<u32>().ok();
    let found = match number {
        Some(uid) => sys::user_of_number(uid),
        None => CString::new(user).map_err(io::Error::from).and_then(|name| sys::user_of_name(&name)),
    };
    match (found, number) {
        (Ok(Some(user)), _) => Some(user),
        // A number needs no name (containers know none), but then nothing tells its group.
        (Ok(None), Some(uid)) if identity.group.is_some() => Some(User { name: CString::default(), uid, gid: 0 }),
        (Ok(None), Some(uid)) => {
            let help = "name its `group` as well".to_owned();
            faults.push_at(
                &identity.user_place,
                format!("user {uid} has no entry on this system"),
                "of which group?",
                Some(help),
            );
            None
        }
        (Ok(None), None) => {
            let help = format!("`useradd --system --no-create-home --shell /usr/sbin/nologin {user}` makes one");
            faults.push_at(
                &identity.user_place,
                format!("unknown user `{user}`"),
                "not a user of this system",
                Some(help),
            );
            None
        }
        (Err(error), _) => {
            faults.push_at(&identity.user_place, format!("user `{user}` cannot be looked up: {error}"), "", None);
            None
        }
    }
}

fn found_group(group: &str, place: &Place, faults: &mut Faults) -> Option<u32> {
    if let Ok(gid) = group.parse() {
        return Some(gid);
    }
    match CString::new(group).map_err(io::Error::from).and_then(|name| sys::group_of_name(&name)) {
        Ok(Some(gid)) => Some(gid),
        Ok(None) => {
            let help = format!("`groupadd --system {group}` makes one");
            faults.push_at(place, format!("unknown group `{group}`"), "not a group of this system", Some(help));
            None
        }
        Err(error) => {
            faults.push_at(place, format!("group `{group}` cannot be looked up: {error}"), "", None);
            None
        }
    }
}

/// Becomes who `identity` says where the process is root, for good and on every thread; otherwise stays who it is. The log
/// says who it is then.
///
/// # Errors
/// As [`find`], or the kernel refused, or did not do what it said. The process must not go on.
pub fn give_up(identity: Option<&Identity>) -> Result<(), Refused> {
    become_account(identity.map(find).transpose()?.as_ref()).map_err(Refused::from)
}

fn become_account(wanted: Option<&Account>) -> io::Result<()> {
    let Some(account) = wanted else {
        if geteuid().is_root() && !is_contained(Path::new("/")) {
            warn!("running as root: set `user` in [server] to drop privileges once every address is bound");
        }
        return Ok(());
    };
    if !geteuid().is_root() {
        let uid = geteuid().as_raw();
        if uid != account.uid {
            warn!(user = %account.written, uid, "`server.user` has no effect: only root can switch to another user");
        }
        return Ok(());
    }
    if account.uid == 0 {
        warn!(user = %account.written, "`server.user` is root: no privileges are dropped");
        return Ok(());
    }
    sys::become_user(account.uid, account.gid, account.name.as_deref())?;
    let is_done = [getuid(), geteuid()].iter().all(|uid| uid.as_raw() == account.uid);
    // The one way to know is to try.
    if !is_done || sys::become_user(0, 0, None).is_ok() {
        return Err(io::Error::other("the kernel lets this process be root again"));
    }
    info!(user = %account.written, uid = account.uid, gid = account.gid, "dropped root privileges");
    Ok(())
}

/// Whether this is a container, where root is usually nobody outside and a user is chosen by whoever runs it.
fn is_contained(root: &Path) -> bool {
    let is_marked =
        [".dockerenv", "run/.containerenv", "run/systemd/container"].iter().any(|mark| root.join(mark).exists());
    // In a user namespace number 0 stands for somebody else.
    let map = std::fs::read_to_string(root.join("proc/self/uid_map")).unwrap_or_default();
    let is_mapped = map.lines().next().is_some_and(|line| {
        let mut numbers = line.split_whitespace();
        numbers.next() == Some("0") && numbers.next() != Some("0")
    });
    is_marked
        || is_mapped
        || std::env::var_os("container").is_some()
        || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn identity(lines: &str) -> Identity {
        let text = format!("[server]\n{lines}\n[[listener]]\nbind = \":0\"\n[[route]]\nrespond = {{}}\n");
        config::parse("test.toml", &text).unwrap().server.identity.unwrap()
    }

    #[test]
    fn names_and_numbers_are_found() {
        let root = find(&identity("user = \"root\"")).unwrap();
        assert_eq!((root.uid, root.gid, root.name.as_deref()), (0, 0, Some(c"root")));
        let other = find(&identity("user = \"0\"\ngroup = \"7\"")).unwrap();
        assert_eq!((other.uid, other.gid, other.name.as_deref()), (0, 7, Some(c"root")));
        let nameless = find(&identity("user = \"2147483632\"\ngroup = \"7\"")).unwrap();
        assert_eq!((nameless.uid, nameless.gid, nameless.name), (2_147_483_632, 7, None));
    }

    #[test]
    fn what_the_system_does_not_know_is_told_with_its_place() {
        let faults = find(&identity("user = \"no-such-user\"\ngroup = \"no-such-group\"")).unwrap_err();
        assert_eq!(faults.len(), 2);
        let text = faults.to_string();
        for part in ["unknown user `no-such-user`", "test.toml:2:8", "unknown group `no-such-group`", "test.toml:3:9"] {
            assert!(text.contains(part), "{text}");
        }
        let text = find(&identity("user = \"2147483632\"")).unwrap_err().to_string();
        assert!(text.contains("name its `group` as well"), "{text}");
    }

    #[test]
    fn a_container_is_known_by_its_marks() {
        let root = tempfile::tempdir().unwrap();
        let marked = root.path().join("marked");
        std::fs::create_dir_all(marked.join("run")).unwrap();
        std::fs::write(marked.join("run/.containerenv"), "").unwrap();
        assert!(is_contained(&marked));
        let mapped = root.path().join("mapped/proc/self");
        std::fs::create_dir_all(&mapped).unwrap();
        std::fs::write(mapped.join("uid_map"), "         0       1000          1\n").unwrap();
        assert!(is_contained(&root.path().join("mapped")));
    }
}
