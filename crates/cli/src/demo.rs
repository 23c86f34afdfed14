//! The demo application: one page that tells which instance answered. Runs inside a container with this program as
//! its only file, so it uses nothing but the standard library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// Port of the demo inside its container.
const PORT: u16 = 8080;

/// Longest request line that is read, bytes.
const MAX_LINE: u64 = 4096;

/// Serves the page until the process is ended.
pub(crate) fn serve() -> ExitCode {
    let listener = match TcpListener::bind(("0.0.0.0", PORT)) {
        Ok(listener) => listener,
        Err(error) => {
            // The only place where the cause can be told is the output of the instance.
            let _ = writeln!(std::io::stderr(), "cannot listen on port {PORT}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let _ = writeln!(std::io::stdout(), "{instance} serves on port {PORT}");
    for connection in listener.incoming() {
        // A client that goes away is no reason to end.
        let _ = connection.and_then(|stream| answer(stream, &instance));
    }
    ExitCode::SUCCESS
}

fn answer(mut stream: TcpStream, instance: &str) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).take(MAX_LINE).read_line(&mut line)?;
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Oakestra demo</title>\
         <style>body{{font:18px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;\
         color-scheme:light dark}}</style>\
         <h1>It works</h1><p>This page comes from <b>{instance}</b> of the demo service, a container that \
         Oakestra placed, started and connected.</p></html>\n"
    );
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         x-served-by: {instance}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
