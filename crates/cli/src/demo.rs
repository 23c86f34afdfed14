//! The demo application: one page that tells which instance answered. Runs as the only program of its container.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// Port of the demo inside its container.
const PORT: u16 = 8080;

/// Longest request line that is read, bytes.
const MAX_LINE: u64 = 4096;

/// Time a client has for its request and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves the page until the process is asked to end.
pub(crate) fn serve() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(run())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The only place where the cause can be told is the output of the instance.
            let _ = writeln!(std::io::stderr(), "cannot serve on port {PORT}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> std::io::Result<()> {
    // The first process of a container gets no signal it does not ask for.
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let instance = std::env::var("HOSTNAME").unwrap_or_else(|_| "unknown".to_owned());
    let _ = writeln!(std::io::stdout(), "{instance} serves on port {PORT}");
    loop {
        // Both branches are cancel-safe.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = terminate.recv() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else { continue };
        let instance = instance.clone();
        tokio::spawn(async move {
            // A client that goes away or says nothing is no concern of the others.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, &instance)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, instance: &str) -> std::io::Result<()> {
    let (from_client, mut to_client) = stream.split();
    let mut line = String::new();
    BufReader::new(from_client.take(MAX_LINE)).read_line(&mut line).await?;
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Oakestra demo</title>\
         <style>body{{font:18px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;\
         color-scheme:light dark}}</style>\
         <h1>It works</h1><p>This page comes from <b>{instance}</b> of the demo service, a container that \
         Oakestra placed, started and connected.</p></html>\n"
    );
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         x-served-by: {instance}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    to_client.write_all((head + &body).as_bytes()).await?;
    to_client.shutdown().await
}
