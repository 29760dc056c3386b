//! `server.user` and `server.group`. `control` checks that they exist on the system.

use super::Check;
use crate::config::model::Identity;
use crate::config::section::Section;

impl Check<'_> {
    pub(super) fn identity(&mut self, section: &Section) -> Option<Identity> {
        let (user, group) = (section.text("user"), section.text("group"));
        for (written, word) in [(user, "user"), (group, "group")] {
            if let Some(written) = written.filter(|written| written.value.is_empty() || written.value.contains('\0')) {
                self.fault(written.spot, format!("not a {word}"), "expected a name or a number");
            }
        }
        match (user, group) {
            (Some(user), group) => Some(Identity {
                user: user.value.into(),
                user_place: self.place(user.spot),
                group: group.map(|group| (group.value.into(), self.place(group.spot))),
            }),
            (None, Some(group)) if !section.has("user") => {
                self.fault_with_help(
                    group.spot,
                    "`group` without `user`",
                    "the user would stay root",
                    "name the `user` too; its own group is the default",
                );
                None
            }
            (None, _) => None,
        }
    }
}
