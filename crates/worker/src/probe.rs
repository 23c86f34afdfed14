//! Trying health checks, as the state machine asks for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use oak_model::{InstanceKey, Probe, chain};
use oak_runtime::{ExecOutput, ExecRequest, Runtime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::container::container_id;

/// Longest status line of an answer that is read, bytes.
const STATUS_LINE: u64 = 1024;
/// Most output of a command that is read, bytes, and shown, characters.
const OUTPUT: usize = 4096;
const SHOWN: usize = 120;

/// Tries once. `environment` is what a command gets besides that of its container. The text says what went wrong.
pub(crate) async fn attempt(
    runtime: &dyn Runtime,
    key: InstanceKey,
    probe: &Probe,
    address: Ipv4Addr,
    limit: Duration,
    environment: Vec<String>,
) -> Result<(), String> {
    let late = || format!("no answer within {} s", limit.as_secs());
    match probe {
        Probe::Tcp { port } => {
            let connect = TcpStream::connect(SocketAddrV4::new(address, *port));
            let connected = timeout(limit, connect).await.map_err(|_| late())?;
            connected.map(drop).map_err(|error| described(&error))
        }
        Probe::Http { port, path } => {
            let status = get(SocketAddrV4::new(address, *port), path);
            let status = timeout(limit, status).await.map_err(|_| late())?;
            judge(&status.map_err(|error| described(&error))?)
        }
        Probe::Command(words) => {
            let id = container_id(key).map_err(|error| chain(&error))?;
            let request = ExecRequest { environment, ..ExecRequest::new(words.clone()) };
            let run = async { runtime.exec(&id, request).await?.collect(OUTPUT).await };
            // Dropped when it is late, which ends it.
            let ended = timeout(limit, run).await;
            let ended = ended.map_err(|_| format!("the command did not end within {} s", limit.as_secs()))?;
            judge_end(&ended.map_err(|error| chain(&error))?)
        }
    }
}

/// `connection refused` without the number of the error.
fn described(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::InvalidData => error.to_string(),
        kind => kind.to_string(),
    }
}

/// The status line of the answer to a `GET`.
async fn get(target: SocketAddrV4, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(target).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: oakestra-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::new();
    let mut bytes = stream.take(STATUS_LINE);
    while !line.contains(&b'\n') {
        if bytes.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim().to_owned())
}

/// 200 to 399 is well, as for other orchestrators.
fn judge(line: &str) -> Result<(), String> {
    let mut words = line.splitn(3, ' ');
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status = words.next().and_then(|word| word.parse::<u16>().ok()).filter(|_| is_http);
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("the answer is {status} {}", shown(words.next().unwrap_or_default()))),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

fn judge_end(ended: &ExecOutput) -> Result<(), String> {
    if ended.status.is_success() {
        return Ok(());
    }
    let how = match (ended.status.code, ended.status.signal) {
        (Some(code), _) => format!("the command exited with code {code}"),
        (None, Some(signal)) => format!("the command was killed by signal {signal}"),
        (None, None) => "the command ended in an unknown way".to_owned(),
    };
    let said = String::from_utf8_lossy(&ended.output);
    match said.lines().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => Err(format!("{how}: {}", shown(line))),
        None => Err(how),
    }
}

/// A text of an application as it is repeated in a status.
fn shown(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use oak_runtime::ExecStatus;

    use super::*;

    #[test]
    fn answers_from_200_to_399_are_well() {
        for (line, expected) in [
            ("HTTP/1.1 200 OK", Ok(())),
            ("HTTP/1.0 302 Found", Ok(())),
            ("HTTP/1.1 204", Ok(())),
            ("HTTP/1.1 404 Not Found", Err("the answer is 404 Not Found")),
            ("HTTP/1.1 503 Gone\u{7}", Err("the answer is 503 Gone ")),
            ("SSH-2.0-OpenSSH", Err("the answer is not HTTP")),
            ("", Err("the answer is not HTTP")),
        ] {
            assert_eq!(judge(line), expected.map_err(str::to_owned), "{line}");
        }
    }

    #[test]
    fn a_failed_command_says_how_it_ended_and_the_first_thing_it_wrote() {
        let ended = |code, signal, text: &str| ExecOutput {
            status: ExecStatus { code, signal },
            output: text.as_bytes().to_vec(),
        };
        assert_eq!(judge_end(&ended(Some(0), None, "x")), Ok(()));
        let said = judge_end(&ended(Some(2), None, "\n no database \nmore"));
        assert_eq!(said.unwrap_err(), "the command exited with code 2: no database");
        assert_eq!(judge_end(&ended(None, Some(9), "")).unwrap_err(), "the command was killed by signal 9");
    }
}
