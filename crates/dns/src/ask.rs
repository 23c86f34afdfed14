//! One question to a name server, for people who look. Blocking.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

/// Our own name server answers within 1.2 s, whatever it has to ask.
const PATIENCE: Duration = Duration::from_secs(3);
/// Largest answer without EDNS, bytes; the addresses of one service fit.
const LARGEST: usize = 512;

/// The IPv4 addresses of a name, asked from the calling thread's network namespace. None: there is no such name.
///
/// # Errors
/// It is no name, or nobody answers.
pub fn ask(server: SocketAddr, name: &str) -> io::Result<Option<Vec<IpAddr>>> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(io::Error::other)?;
    let mut question = Message::query();
    question.metadata.id =
        u16::try_from(StdRng::from_os_rng().next_u32() & 0xffff).map_err(io::Error::other)?;
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name, RecordType::A));
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(&question.to_vec().map_err(io::Error::other)?)?;
    let mut buffer = [0; LARGEST];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
    if answer.metadata.id != question.metadata.id {
        return Err(io::Error::other("it answered another question"));
    }
    match answer.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(None),
        code => return Err(io::Error::other(format!("it answered {code}"))),
    }
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        _ => None,
    });
    Ok(Some(addresses.collect()))
}
