//! Where a value stands in a descriptor, written as people read it: `applications[0].microservices[1].memory`.

use std::fmt;

/// A place in a JSON document, borrowed from the stack of the code that walks it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    /// The document itself.
    Root,
    /// A member of an object.
    Key(&'a Path<'a>, &'a str),
    /// An element of an array, counted from 0.
    Index(&'a Path<'a>, usize),
}

impl<'a> Path<'a> {
    /// The place of member `name` of the object that stands here.
    pub(super) fn key(&'a self, name: &'a str) -> Path<'a> {
        Path::Key(self, name)
    }

    /// The place of element `index` of the array that stands here.
    pub(super) fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(parent, name) => {
                parent.fmt(f)?;
                if !matches!(parent, Path::Root) {
                    f.write_str(".")?;
                }
                // Keys come from outside: cut them, so that one hostile key does not fill the answer.
                match name.char_indices().nth(MAX_SHOWN_KEY) {
                    Some((end, _)) => write!(f, "{}…", name.get(..end).unwrap_or_default().escape_debug()),
                    None => write!(f, "{}", name.escape_debug()),
                }
            }
            Path::Index(parent, index) => {
                parent.fmt(f)?;
                write!(f, "[{index}]")
            }
        }
    }
}

/// Characters of a key that are shown in a message.
const MAX_SHOWN_KEY: usize = 40;

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn reads_like_an_access() {
        let applications = Path::Root.key("applications");
        let first = applications.index(0);
        let services = first.key("microservices");
        let second = services.index(1);
        assert_eq!(second.key("memory").to_string(), "applications[0].microservices[1].memory");
        assert_eq!(Path::Root.to_string(), "");
        assert_eq!(Path::Root.key(&"x".repeat(100)).to_string(), format!("{}…", "x".repeat(40)));
    }
}
