//! A connection that stays open and asks one thing after another, with as little of its own as possible.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

/// An open connection to the API of a root.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Connection {
    /// Connects and logs in as the first user.
    pub(crate) fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, LIMIT).context("cannot connect to the API")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut connection = Self { stream: BufReader::new(stream), token: String::new() };
        let login = r#"{"username":"Admin","password":"Admin"}"#;
        let answer = connection.ask("POST", "/api/auth/login", Some(login))?;
        let token = answer.get("token").and_then(Value::as_str).context("the login brought no token")?;
        token.clone_into(&mut connection.token);
        Ok(connection)
    }

    /// Asks, and reads the answer as JSON, also if that is JSON within a JSON text as some calls answer.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Value> {
        let what = || format!("{method} {path}");
        let body = self.call(method, path, body)?;
        let value: Value = serde_json::from_slice(&body).with_context(what)?;
        match value.as_str() {
            Some(text) => serde_json::from_str(text).with_context(what),
            None => Ok(value),
        }
    }

    /// Asks for something and only counts the bytes of the answer.
    pub(crate) fn fetch(&mut self, path: &str) -> anyhow::Result<usize> {
        Ok(self.call("GET", path, None)?.len())
    }

    fn call(&mut self, method: &str, path: &str, body: Option<&str>) -> anyhow::Result<Vec<u8>> {
        let what = || format!("{method} {path}");
        let token = &self.token;
        let length = body.map_or(0, str::len);
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: oak\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\
             \r\ncontent-length: {length}\r\n\r\n{}",
            body.unwrap_or("")
        );
        self.stream.get_mut().write_all(request.as_bytes()).with_context(what)?;
        let (status, body) = self.answer().with_context(what)?;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    fn answer(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, body))
    }
}

/// Whether somebody at `address` answers a request with at least one byte.
pub(crate) fn answers(address: SocketAddr) -> bool {
    // Far above the time of an answer; a first packet that got lost is not waited for.
    const PATIENCE: Duration = Duration::from_millis(20);
    let ask = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE * 10))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        stream.read(&mut [0; 1])
    };
    ask().is_ok_and(|read| read == 1)
}
