//! Finds out which numbers a user of an image has. Files of the image: `/etc/passwd`, `/etc/group`.

use crate::error::FailureKind;
use crate::record::Failure;

/// Supplementary groups beyond this many are left out; the kernel takes 65 536.
const GROUPS: usize = 256;

/// Who the program runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, the own one among them.
    pub(super) groups: Vec<u32>,
    /// Home directory, `/` if the image does not say.
    pub(super) home: String,
}

/// Resolves ``, `user`, `user:group`, each by name or number. A number that the image does not know is taken
/// as it is; a name it does not know is an error. A group given explicitly replaces the supplementary ones.
pub(super) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, Failure> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group_name)) => (name, Some(group_name)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let account = passwd.lines().find_map(|line| Account::parse(line, name, number));
    let (uid, mut gid, home) = match (&account, number) {
        (Some(account), _) => (account.uid, account.gid, account.home.to_owned()),
        (None, Some(uid)) => (uid, 0, String::new()),
        (None, None) => {
            let message = format!("the image has no user {name:?} in /etc/passwd");
            return Err(Failure::new(FailureKind::UnknownUser, message));
        }
    };
    let mut groups = Vec::new();
    match group_name {
        Some(wanted) if !wanted.is_empty() => gid = group_number(wanted, group)?,
        _ => {
            if let Some(account) = &account {
                groups = memberships(account.name, group);
            }
        }
    }
    if !groups.contains(&gid) {
        // as after a login; programs check membership of their own group in this list
        groups.insert(0, gid);
    }
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Ok(Identity { uid, gid, groups, home })
}

/// A line of `/etc/passwd`: name:password:uid:gid:comment:home:shell.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// The account of a line if it is the one looked for; names win over numbers only in being compared first.
    fn parse(line: &'a str, name: &str, number: Option<u32>) -> Option<Self> {
        let mut fields = line.split(':');
        let found = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or("");
        let matches = found == name || number == Some(uid);
        matches.then_some(Self { name: found, uid, gid, home })
    }
}

/// A line of `/etc/group`: name, number, members.
fn group_fields(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or("").trim()))
}

fn group_number(wanted: &str, group: &str) -> Result<u32, Failure> {
    let named = group.lines().filter_map(group_fields).find(|(name, ..)| *name == wanted);
    named.map(|(_, gid, _)| gid).or_else(|| wanted.parse().ok()).ok_or_else(|| {
        let message = format!("the image has no group {wanted:?} in /etc/group");
        Failure::new(FailureKind::UnknownUser, message)
    })
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    let lines = group.lines().filter_map(group_fields);
    lines
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .take(GROUPS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/srv:/bin/false\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\naudio:x:29:web,other\nshort\n";

    fn numbers(user: &str) -> Result<(u32, u32, Vec<u32>, String), FailureKind> {
        resolve(user, PASSWD, GROUP)
            .map(|identity| (identity.uid, identity.gid, identity.groups, identity.home))
            .map_err(|failure| failure.kind)
    }

    #[test]
    fn users_are_found_as_images_write_them() {
        let home = |text: &str| text.to_owned();
        assert_eq!(numbers(""), Ok((0, 0, vec![0], home("/root"))));
        assert_eq!(numbers("web"), Ok((33, 34, vec![34, 29], home("/srv"))));
        assert_eq!(numbers("33"), Ok((33, 34, vec![34, 29], home("/srv"))));
        assert_eq!(numbers("web:audio"), Ok((33, 29, vec![29], home("/srv"))));
        assert_eq!(numbers("1000"), Ok((1000, 0, vec![0], home("/"))));
        assert_eq!(numbers("1000:2000"), Ok((1000, 2000, vec![2000], home("/"))));
        assert_eq!(numbers(":audio"), Ok((0, 29, vec![29], home("/root"))));
    }

    #[test]
    fn unknown_names_are_errors() {
        for user in ["nobody", "web:nogroup", "-1", "4294967296"] {
            assert_eq!(numbers(user), Err(FailureKind::UnknownUser), "{user}");
        }
    }
}
