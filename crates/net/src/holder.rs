//! Who listens on a port of this host. Asked before a port mapping takes the port away.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::error::{NetworkError, Tried};
use crate::table::PortProtocol;

/// Longest line the kernel writes is about 150 bytes; a table of a million sockets is read to its end.
const MAX_TABLE: u64 = 256 * 1024 * 1024;
/// `TCP_LISTEN` and `TCP_CLOSE` of `net/tcp_states.h`; an unconnected UDP socket is in the latter.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortHolder {
    /// Its process id; none if it is not visible from here (another pid namespace, or the kernel).
    pub pid: Option<u32>,
    /// Its name as in `ps`, at most 15 bytes.
    pub process_name: Option<String>,
}

/// Finds a process that listens on `port`, on any address, IPv4 or IPv6, in the network namespace of the
/// calling thread. Blocking: reads `/proc`.
///
/// # Errors
/// The kernel's socket table cannot be read.
pub fn port_holder(protocol: PortProtocol, port: u16) -> Result<Option<PortHolder>, NetworkError> {
    let state = match protocol {
        PortProtocol::Tcp => LISTENING,
        PortProtocol::Udp => UNCONNECTED,
    };
    for version in ["", "6"] {
        let path = format!("/proc/thread-self/net/{protocol}{version}");
        let what = || format!("read {path}");
        let table = match File::open(&path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            table => table.tried(what)?,
        };
        let table = BufReader::new(table.take(MAX_TABLE));
        if let Some(inode) = find_socket(table, state, port).tried(what)? {
            return Ok(Some(holder_of(inode)));
        }
    }
    Ok(None)
}

/// The inode of the first socket in `state` on `port`.
fn find_socket(table: impl BufRead, state: &str, port: u16) -> io::Result<Option<u64>> {
    for line in table.lines().skip(1) {
        let line = line?;
        let Some(entry) = parse(&line) else {
            continue;
        };
        if entry.state == state && entry.port == port {
            return Ok(Some(entry.inode));
        }
    }
    Ok(None)
}

#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    port: u16,
    state: &'a str,
    inode: u64,
}

/// One line: number, local address, remote address, state, queues, timer, retransmits, uid, time-out,
/// inode, … (`Documentation/networking/proc_net_tcp.rst`).
fn parse(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    let (_, port) = local.rsplit_once(':')?;
    Some(Entry { port: u16::from_str_radix(port, 16).ok()?, state, inode })
}

/// The process that has the socket open.
fn holder_of(inode: u64) -> PortHolder {
    let link = format!("socket:[{inode}]");
    let pid = processes().find(|pid| has_open(*pid, Path::new(&link)));
    let process_name = pid
        .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).ok())
        .map(|name| name.trim_end().to_owned());
    PortHolder { pid, process_name }
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn has_open(pid: u32, link: &Path) -> bool {
    // A process that ended meanwhile, or is not ours to see, does not have it.
    fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == link))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:0050 0100007F:A2C8 01 00000000:00000000 00:00000000 00000000  1000        0 22 1 0 20 4 30 10 -1
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 33 1 0 100 0 0 10 0
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 44 1 0 100 0 0 10 0
";

    #[test]
    fn listeners_are_found_and_connections_are_not() {
        assert_eq!(find_socket(TCP.as_bytes(), LISTENING, 8080).unwrap(), Some(11));
        assert_eq!(find_socket(TCP.as_bytes(), LISTENING, 80).unwrap(), Some(33));
        assert_eq!(find_socket(TCP.as_bytes(), LISTENING, 81).unwrap(), None);
        assert_eq!(find_socket(TCP6.as_bytes(), LISTENING, 443).unwrap(), Some(44));
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        for line in ["", "0:", "0: zz:yy 0 0A 0 0 0 0 0 1", "a b c d", "0: :1 x 0A 0 0 0 0 0 -1"] {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }
}
