//! From the bytes of a query to the bytes of an answer, as far as that needs nobody else. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

use crate::lookup::Question;
use crate::zone::{Found, Zone};

/// Bytes of a header.
const HEADER: usize = 12;
/// What every asker takes over UDP.
const MIN_UDP: u16 = 512;

/// What is to be done with a datagram or message.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Not a query: no answer, or two servers would talk for ever.
    Ignore,
    /// It cannot be understood or is not for us to do.
    Refuse(Message),
    /// A question.
    Ask(Box<Message>),
}

/// What the zone says to a query.
#[derive(Debug)]
pub(crate) enum Reply {
    Ready(Message),
    /// The node does not know it; a lookup may.
    Unknown(Question),
    /// Not a name of ours.
    Foreign,
}

/// Reads a message; whatever it is, this does not fail.
pub(crate) fn read(bytes: &[u8]) -> Incoming {
    let (Some(header), Some(flags)) = (bytes.get(..HEADER), bytes.get(2)) else { return Incoming::Ignore };
    let is_answer = flags & 0x80 != 0;
    if is_answer {
        return Incoming::Ignore;
    }
    let Ok(query) = Message::from_vec(bytes) else {
        let id = header.iter().take(2).fold(0_u16, |id, byte| (id << 8) | u16::from(*byte));
        let op_code = OpCode::from_u8((flags >> 3) & 0xf);
        return Incoming::Refuse(Message::error_msg(id, op_code, ResponseCode::FormErr));
    };
    if query.metadata.message_type != MessageType::Query {
        return Incoming::Ignore;
    }
    match refusal(&query) {
        Some(code) => Incoming::Refuse(with_code(&query, code)),
        None => Incoming::Ask(Box::new(query)),
    }
}

fn refusal(query: &Message) -> Option<ResponseCode> {
    if query.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    if query.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Some(ResponseCode::BADVERS);
    }
    let [question] = query.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    let is_transfer = matches!(question.query_type, RecordType::AXFR | RecordType::IXFR);
    let is_in = question.query_class == DNSClass::IN;
    (is_transfer || !is_in).then_some(ResponseCode::Refused)
}

/// An answer without records, with everything an answer takes over from its query.
pub(crate) fn with_code(query: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.checking_disabled = query.metadata.checking_disabled;
    answer.metadata.response_code = code;
    // As it was spelled: askers compare it with what they sent (0x20).
    answer.queries.extend(query.queries.first().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(MIN_UDP.max(asked.max_payload()).min(1232));
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        answer.edns = Some(edns);
    }
    answer
}

/// Answers from the zone.
pub(crate) fn reply(zone: &Zone, query: &Message, asker: IpAddr) -> Reply {
    let Some(Query { name, query_type, .. }) = query.queries.first() else {
        return Reply::Ready(with_code(query, ResponseCode::FormErr));
    };
    match zone.find(name, *query_type, asker) {
        Found::Foreign => Reply::Foreign,
        Found::Unknown(question) => Reply::Unknown(question),
        Found::NoName => Reply::Ready(negative(zone, query, ResponseCode::NXDomain)),
        Found::NoData => Reply::Ready(negative(zone, query, ResponseCode::NoError)),
        Found::Records { answers, additionals } => {
            let mut answer = with_code(query, ResponseCode::NoError);
            answer.metadata.authoritative = true;
            answer.answers = answers;
            answer.additionals = additionals;
            Reply::Ready(answer)
        }
    }
}

/// There is no such name, or nothing of this type: the start of authority says how long that may be believed.
pub(crate) fn negative(zone: &Zone, query: &Message, code: ResponseCode) -> Message {
    let mut answer = with_code(query, code);
    answer.metadata.authoritative = true;
    answer.authorities =
        query.queries.first().and_then(|one| zone.authority(&one.name)).into_iter().collect();
    answer
}

/// The largest UDP answer this query takes, bytes.
pub(crate) fn udp_limit(query: &Message, ours: u16) -> usize {
    let theirs = query.edns.as_ref().map_or(MIN_UDP, |edns| edns.max_payload().max(MIN_UDP));
    theirs.min(ours.max(MIN_UDP)).into()
}

/// The bytes of an answer of at most `limit` bytes. One that is too large goes without its records, which tells the
/// asker to come again over TCP. None if even that does not fit.
pub(crate) fn write(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    match answer.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Some(bytes),
        Ok(_) | Err(_) => answer.truncate().to_vec().ok().filter(|bytes| bytes.len() <= limit),
    }
}

#[cfg(test)]
mod tests;
