//! Questions to nf_tables that do not need the `nft` program. Changes always go through it.

use std::io;

use super::Socket;
use super::socket::is_absent;
use super::wire::{Request, attribute, text, u32_be};

/// `NFNL_SUBSYS_NFTABLES << 8` with the messages of `linux/netfilter/nf_tables.h`.
const GET_TABLE: u16 = 0x0a01;
const GET_CHAIN: u16 = 0x0a04;
const DUMP: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
/// Hook of packets for this host, `NF_INET_LOCAL_IN`.
pub(crate) const INPUT: u32 = 1;
/// Hook of packets that pass through, `NF_INET_FORWARD`.
pub(crate) const FORWARD: u32 = 2;
const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const POLICY_DROP: u32 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;

/// Whether a table of family `inet` exists.
pub(crate) fn has_table(socket: &mut Socket, table: &str) -> io::Result<bool> {
    let request = Request::new(GET_TABLE, ACK, &[FAMILY_INET, 0, 0, 0]).put_text(TABLE_NAME, table);
    match socket.query(request, |_| Some(())) {
        Ok(found) => Ok(found.is_some()),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Chains (as `table/chain`) on a hook that drop IPv4 traffic unless told otherwise. Our table cannot
/// overrule them: every chain on a hook must let a packet pass.
pub(crate) fn dropping_chains(socket: &mut Socket, wanted_hook: u32) -> io::Result<Vec<String>> {
    socket.dump(
        || Request::new(GET_CHAIN, DUMP, &[0, 0, 0, 0]),
        |answer| {
            let family = *answer.payload.first()?;
            let attributes = answer.payload.get(4..)?;
            let hook = attribute(attributes, CHAIN_HOOK)?;
            let number = attribute(hook, HOOK_NUMBER).and_then(u32_be)?;
            let policy = attribute(attributes, CHAIN_POLICY).and_then(u32_be)?;
            let drops =
                matches!(family, FAMILY_INET | FAMILY_IPV4) && number == wanted_hook && policy == POLICY_DROP;
            let table = text(attribute(attributes, CHAIN_TABLE)?);
            let chain = text(attribute(attributes, CHAIN_NAME)?);
            drops.then(|| format!("{table}/{chain}"))
        },
    )
}
