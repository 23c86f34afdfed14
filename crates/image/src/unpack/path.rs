//! Paths of archive entries, reduced to components that cannot leave the directory they are applied in.

/// Longest path, the kernel's `PATH_MAX`.
const LONGEST_PATH: usize = 4096;
/// Longest component, the kernel's `NAME_MAX`.
const LONGEST_NAME: usize = 255;

/// A relative path without `.`, `..`, empty components or NUL. The empty path is the root itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath {
    components: Vec<Vec<u8>>,
}

impl EntryPath {
    /// Parses the path of an archive entry; leading `/` and `./` are dropped, as every container tool does.
    ///
    /// # Errors
    /// Why the path is refused.
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, &'static str> {
        if raw.len() > LONGEST_PATH {
            return Err("its path is longer than 4096 bytes");
        }
        if raw.contains(&0) {
            return Err("its path contains a NUL byte");
        }
        let mut components = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err("its path contains '..'"),
                name if name.len() > LONGEST_NAME => {
                    return Err("a part of its path is longer than 255 bytes");
                }
                name => components.push(name.to_owned()),
            }
        }
        Ok(Self { components })
    }

    /// Directory and file name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[Vec<u8>], &[u8])> {
        let (name, parent) = self.components.split_last()?;
        Some((parent, name))
    }

    /// The path with `/` between its components.
    pub(crate) fn joined(&self) -> Vec<u8> {
        self.components.join(&b'/')
    }
}

/// For messages: printable and short.
pub(crate) fn shown(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw).chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn drops_what_means_here_and_refuses_what_means_up() {
        assert_eq!(EntryPath::parse(b"/./usr//bin/sh").unwrap().joined(), b"usr/bin/sh");
        assert_eq!(EntryPath::parse(b"./").unwrap().split(), None);
        for path in [&b"../x"[..], b"a/../b", b"/..", b"a\0b", &[b'a'; 256], &b"a/".repeat(3000)] {
            assert!(EntryPath::parse(path).is_err(), "{}", shown(path));
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_climbs(raw in "[a./\\PC]{0,40}") {
            if let Ok(path) = EntryPath::parse(raw.as_bytes()) {
                for component in path.joined().split(|byte| *byte == b'/') {
                    prop_assert!(component != b".." && component != b".");
                }
                prop_assert!(!path.joined().starts_with(b"/"));
                prop_assert_eq!(EntryPath::parse(&path.joined()).unwrap(), path);
            }
        }
    }
}
