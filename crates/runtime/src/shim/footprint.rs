//! Gives back the memory that starting a container took: an idle shim should cost next to nothing.
#![allow(unsafe_code, reason = "pages of the program are dropped from memory")]

use std::fs;

use crate::sys;

/// Frees the heap and drops the program's own code from this process; the little that the rest of a shim's life
/// needs comes back from the page cache by itself.
pub(super) fn shrink() {
    sys::trim_heap();
    let mappings = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for (start, length) in unwritten_files(&mappings) {
        // SAFETY: a read-only mapping of a file without anonymous pages: nothing was written to it, and nothing
        // is between here and there that could, for it is not writable and there is one thread.
        unsafe { sys::forget_pages(start, length) }
    }
}

/// Start and length of the mappings of files that are not writable and have no pages of their own.
fn unwritten_files(mappings: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in mappings.lines() {
        if let Some(range) = header(line) {
            candidate = range;
        } else if let Some(own) = line.strip_prefix("Anonymous:")
            && let Some(range) = candidate.take()
            && own.trim() == "0 kB"
        {
            found.push(range);
        }
    }
    found
}

/// `None`: not the first line of a mapping. `Some(None)`: of one that must stay.
/// Format: `start-end rwxp offset device inode path` (proc_pid_maps(5)).
fn header(line: &str) -> Option<Option<(usize, usize)>> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    let access = fields.next()?;
    let path = fields.nth(3).unwrap_or("");
    let is_candidate = path.starts_with('/') && !access.contains('w') && access.ends_with('p');
    Some((is_candidate && end > start).then(|| (start, end - start)))
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
        assert_eq!(unwritten_files(mappings), [(0x1000, 0x1000), (0x4000, 0x2000)]);
    }
}
