//! Reads tar archives: ustar, GNU long names, PAX records. Every header and record is bounded.
//!
//! The `tar` crate decodes header fields; its own iterator is not used because it reads long names and PAX records
//! without a limit and splits PAX values at newlines, which binary attributes may contain.

use std::io::{self, Read};

use tar::{EntryType, Header};

use super::path;

const BLOCK: usize = 512;
/// Go's archive/tar, which writes most layers, has the same limit.
const LARGEST_EXTENSION: u64 = 1 << 20;
/// Extended headers in a row that may precede one entry.
const MOST_EXTENSIONS: u32 = 16;
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Device,
}

/// One entry; the content of a file is read from the [`ArchiveReader`].
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) path: Vec<u8>,
    /// Target of a link.
    pub(super) target: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since 1970.
    pub(super) modified_seconds: i64,
    pub(super) modified_nanoseconds: u32,
    /// Extended attributes; names without prefix.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Entries of an archive in order; `Read` gives the content of the current one.
pub(super) struct ArchiveReader<R> {
    inner: R,
    body_remaining: u64,
    padding: u64,
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<(i64, u32)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, body_remaining: 0, padding: 0 }
    }

    /// Goes to the next entry, skipping what is left of the current one; `None` at the end.
    pub(super) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        let mut overrides = Overrides::default();
        let mut extensions = 0;
        loop {
            self.skip_body()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let kind = header.entry_type();
            let size = number(&header.as_old().size, header.entry_size())
                .ok_or_else(|| damaged("a header has no valid size"))?;
            if let Some(kind) = entry_kind(kind)? {
                let kind = if overrides.is_old_directory(&header) { EntryKind::Directory } else { kind };
                let size = overrides.size.unwrap_or(size);
                // As in Go: only files have a body, whatever the header of a link says.
                if kind == EntryKind::File {
                    self.set_body(size);
                }
                return overrides.entry(kind, &header).map(Some);
            }
            extensions += 1;
            if extensions > MOST_EXTENSIONS {
                return Err(damaged("an entry has too many extended headers"));
            }
            self.set_body(size);
            self.read_extension(kind, size, &mut overrides)?;
        }
    }

    fn read_extension(&mut self, kind: EntryType, size: u64, overrides: &mut Overrides) -> io::Result<()> {
        // Global headers are comments (git puts its commit there); nothing in a layer may rely on them.
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        if size > LARGEST_EXTENSION {
            return Err(damaged("an extended header is larger than 1 MiB"));
        }
        let mut text = Vec::new();
        self.read_to_end(&mut text)?;
        match kind {
            EntryType::XHeader => overrides.read_pax(&text)?,
            EntryType::GNULongName => overrides.path = Some(until_nul(text)),
            EntryType::GNULongLink => overrides.target = Some(until_nul(text)),
            other => {
                return Err(damaged(format!(
                    "an entry has the unknown type '{}'",
                    other.as_byte().escape_ascii()
                )));
            }
        }
        Ok(())
    }

    fn set_body(&mut self, size: u64) {
        self.body_remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_body(&mut self) -> io::Result<()> {
        let rest = self.body_remaining.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.inner).take(rest), &mut io::sink())?;
        // Some tools leave out the padding of the last entry.
        if skipped < self.body_remaining {
            return Err(damaged("the archive ends in the middle of a file"));
        }
        (self.body_remaining, self.padding) = (0, 0);
        Ok(())
    }

    /// `None` at the end mark or at the end of the stream.
    fn read_header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(damaged("the archive ends in the middle of a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        // The checksum counts its own eight bytes as spaces.
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(damaged("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.body_remaining).unwrap_or(usize::MAX).min(buffer.len());
        let Some(window) = buffer.get_mut(..wanted).filter(|window| !window.is_empty()) else { return Ok(0) };
        let count = self.inner.read(window)?;
        if count == 0 {
            return Err(damaged("the archive ends in the middle of a file"));
        }
        self.body_remaining -= count as u64;
        Ok(count)
    }
}

impl Overrides {
    /// Records are `<length> <key>=<value>\n`, the length counting itself (POSIX pax, "pax Extended Header").
    fn read_pax(&mut self, mut text: &[u8]) -> io::Result<()> {
        let malformed = || damaged("a PAX record is malformed");
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length: usize = text.get(..space).and_then(parse_number).ok_or_else(malformed)?;
            let record = text.get(space + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = record.split_at(equals);
            self.set(key, value.get(1..).unwrap_or_default())?;
            text = text.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let invalid = || damaged(format!("PAX record {} has no valid value", path::shown(key)));
        match key {
            b"path" => self.path = Some(value.to_owned()),
            b"linkpath" => self.target = Some(value.to_owned()),
            b"size" => self.size = Some(parse_number(value).ok_or_else(invalid)?),
            b"uid" => self.uid = Some(parse_number(value).ok_or_else(invalid)?),
            b"gid" => self.gid = Some(parse_number(value).ok_or_else(invalid)?),
            b"mtime" => self.modified = Some(parse_time(value).ok_or_else(invalid)?),
            key if key.starts_with(b"GNU.sparse.") => return Err(damaged("sparse files are not supported")),
            key => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.attributes.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Before POSIX a directory was a file (type NUL) whose name ends with a slash.
    fn is_old_directory(&self, header: &Header) -> bool {
        let ends_with_slash = match &self.path {
            Some(path) => path.ends_with(b"/"),
            None => header.path_bytes().ends_with(b"/"),
        };
        header.as_old().linkflag == [0] && ends_with_slash
    }

    fn entry(self, kind: EntryKind, header: &Header) -> io::Result<Entry> {
        let fields = header.as_old();
        let id = |field: &[u8], value| number(field, value).and_then(|value| u32::try_from(value).ok());
        let path = self.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let problem = |what: &str| damaged(format!("{} has no valid {what}", path::shown(&path)));
        let uid = self.uid.or_else(|| id(&fields.uid, header.uid())).ok_or_else(|| problem("owner"))?;
        let gid = self.gid.or_else(|| id(&fields.gid, header.gid())).ok_or_else(|| problem("group"))?;
        let mode = id(&fields.mode, header.mode().map(u64::from)).ok_or_else(|| problem("mode"))? & 0o7777;
        let (modified_seconds, modified_nanoseconds) = match self.modified {
            Some(time) => time,
            None => (header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0), 0),
        };
        let target = self
            .target
            .unwrap_or_else(|| header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default());
        Ok(Entry {
            kind,
            path,
            target,
            mode,
            uid,
            gid,
            modified_seconds,
            modified_nanoseconds,
            attributes: self.attributes,
        })
    }
}

/// `None` for headers that only describe the next entry (and for types nobody knows).
fn entry_kind(kind: EntryType) -> io::Result<Option<EntryKind>> {
    Ok(match kind {
        EntryType::Regular | EntryType::Continuous => Some(EntryKind::File),
        EntryType::Link => Some(EntryKind::HardLink),
        EntryType::Symlink => Some(EntryKind::Symlink),
        EntryType::Directory => Some(EntryKind::Directory),
        EntryType::Fifo => Some(EntryKind::Fifo),
        EntryType::Char | EntryType::Block => Some(EntryKind::Device),
        EntryType::GNUSparse => return Err(damaged("sparse files are not supported")),
        _ => None,
    })
}

/// A number in a header; as in Go, a field left blank means 0.
fn number(field: &[u8], value: io::Result<u64>) -> Option<u64> {
    let is_blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if is_blank { Some(0) } else { value.ok() }
}

fn parse_number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Decimal seconds, possibly negative and with a fraction.
fn parse_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

fn damaged(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length += 1;
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    fn pax(records: &[u8]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        let padding = vec![0; records.len().next_multiple_of(BLOCK) - records.len()];
        [&header.as_bytes()[..], records, &padding].concat()
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 2 * BLOCK);
        bytes
    }

    fn names(archive: &[u8]) -> io::Result<Vec<String>> {
        let mut reader = ArchiveReader::new(archive);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            names.push(String::from_utf8_lossy(&entry.path).into_owned());
        }
        Ok(names)
    }

    #[test]
    fn long_names_arrive_whole_in_gnu_and_pax_form() {
        let long = "directory/".repeat(30) + "file";
        assert_eq!(names(&file(&long, b"x")).unwrap(), std::slice::from_ref(&long));
        let archive =
            [pax(&record("path", long.as_bytes())), file("short", b"x"), file("next", b"")].concat();
        assert_eq!(names(&archive).unwrap(), [long, "next".to_owned()]);
    }

    #[test]
    fn pax_values_may_be_binary_and_times_may_be_fractions() {
        let records = [
            record("SCHILY.xattr.security.capability", b"\x01\n\n=\0"),
            record("mtime", b"-1.25"),
            record("uid", b"4000000000"),
        ]
        .concat();
        let archive = [pax(&records), file("a", b"")].concat();
        let entry = ArchiveReader::new(&archive[..]).next_entry().unwrap().unwrap();
        assert_eq!(entry.attributes, [(b"security.capability".to_vec(), b"\x01\n\n=\0".to_vec())]);
        assert_eq!((entry.modified_seconds, entry.modified_nanoseconds), (-2, 750_000_000));
        assert_eq!(entry.uid, 4_000_000_000);
    }

    #[test]
    fn the_content_ends_where_the_file_ends() {
        let archive = [file("a", b"first"), file("b", &[7; 1000])].concat();
        let mut reader = ArchiveReader::new(&archive[..]);
        let mut content = Vec::new();
        reader.next_entry().unwrap().unwrap();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"first");
        content.clear();
        reader.next_entry().unwrap().unwrap();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 1000]);
        assert!(reader.next_entry().unwrap().is_none());
    }

    #[test]
    fn truncated_oversized_and_damaged_archives_are_errors() {
        let whole = file("a", &[7; 2000]);
        assert!(names(&whole[..1024]).is_err());
        assert!(names(&whole[..100]).is_err());
        let mut flipped = whole.clone();
        flipped[0] ^= 1;
        assert!(names(&flipped).is_err());
        let mut huge = Header::new_ustar();
        huge.set_entry_type(EntryType::XHeader);
        huge.set_size(1 << 40);
        huge.set_cksum();
        assert!(names(huge.as_bytes()).is_err());
        let endless: Vec<u8> = (0..20).flat_map(|_| pax(&record("path", b"x"))).collect();
        assert!(names(&endless).is_err());
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..2048), fix in any::<bool>()) {
            if fix && bytes.len() >= BLOCK {
                let mut header = Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[..BLOCK]);
                header.set_cksum();
                bytes[..BLOCK].copy_from_slice(header.as_bytes());
            }
            let _ = names(&bytes);
        }

        #[test]
        fn rubbish_in_pax_records_never_panics(text in "([0-9]{1,3} )?[a-z.=\n0-9]{0,60}") {
            let _ = Overrides::default().read_pax(text.as_bytes());
        }
    }
}
