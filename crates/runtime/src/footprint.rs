//! Gives memory back that is not needed for now: an idle shim should cost next to nothing, an idle agent little.
#![allow(unsafe_code, reason = "pages of the program are dropped from memory")]

use std::fs;

use crate::sys;

/// Keeps the heap of this process small: few arenas, and large blocks go back to the kernel as soon as they are freed.
/// To be called before the first thread starts.
pub fn limit_heap() {
    sys::limit_heap();
}

/// Frees the heap and drops the program's own code from this process; what is needed comes back from the page cache
/// by itself. Takes about a millisecond, and may be called at any time.
pub fn shrink_footprint() {
    sys::trim_heap();
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mappings = read_only_files(&mappings);
    let own_code = shrink_footprint as fn() as usize;
    let program = mappings.iter().find(|mapping| (mapping.start..mapping.end).contains(&own_code));
    for mapping in
        mappings.iter().filter(|mapping| program.is_some_and(|program| mapping.file == program.file))
    {
        // SAFETY: a read-only mapping of the program without anonymous pages: nothing was written to it, and no
        // thread is about to, for the program is mapped and relocated before its first instruction.
        unsafe { sys::forget_pages(mapping.start, mapping.end - mapping.start) }
    }
}

/// The same for a process with only one thread, and with the libraries it uses.
pub(crate) fn shrink_alone() {
    sys::trim_heap();
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for mapping in read_only_files(&mappings) {
        // SAFETY: a read-only mapping of a file without anonymous pages: nothing was written to it, and nothing
        // is between here and there that could, for it is not writable and there is one thread.
        unsafe { sys::forget_pages(mapping.start, mapping.end - mapping.start) }
    }
}

/// A part of a file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    /// Device and inode.
    file: (&'a str, &'a str),
}

/// The mappings of files that are not writable and have no pages of their own.
fn read_only_files(mappings: &str) -> Vec<Mapping<'_>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in mappings.lines() {
        if let Some(mapping) = header(line) {
            candidate = mapping;
        } else if let Some(own) = line.strip_prefix("Anonymous:")
            && let Some(mapping) = candidate.take()
            && own.trim() == "0 kB"
        {
            found.push(mapping);
        }
    }
    found
}

/// `None`: not the first line of a mapping. `Some(None)`: of one that must stay.
/// Format: `start-end rwxp offset device inode path` (proc_pid_maps(5)).
fn header(line: &str) -> Option<Option<Mapping<'_>>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let access = fields.next()?;
    let file = (fields.nth(1)?, fields.next()?);
    let path = fields.next().unwrap_or("");
    let is_candidate = path.starts_with('/') && !access.contains('w') && access.ends_with('p');
    Some((is_candidate && end > start).then_some(Mapping { start, end, file }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relocated_writable_and_nameless_mappings_stay() {
        let mappings = "\
1000-2000 r-xp 00000000 fd:00 12 /bin/oak
Rss: 4 kB
Anonymous:             0 kB
2000-3000 r--p 00001000 fd:00 12 /bin/oak
Anonymous:             4 kB
3000-4000 rw-p 00002000 fd:00 12 /bin/oak
Anonymous:             0 kB
4000-6000 r--p 00003000 fd:00 13 /lib/libc.so
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB";
        let program = Mapping { start: 0x1000, end: 0x2000, file: ("fd:00", "12") };
        let library = Mapping { start: 0x4000, end: 0x6000, file: ("fd:00", "13") };
        assert_eq!(read_only_files(mappings), [program, library]);
    }

    #[test]
    fn a_process_goes_on_after_it_was_shrunk() {
        let code = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            read_only_files(&smaps).len()
        };
        let before = code();
        shrink_footprint();
        assert!(before > 0 && code() >= before);
    }
}
