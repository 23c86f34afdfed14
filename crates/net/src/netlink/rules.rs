//! Questions to nf_tables that do not need the `nft` program. Changes always go through it.

use std::io;

use oak_netlink::Socket;
use oak_netlink::is_absent;
use oak_netlink::wire::{Request, attribute, attributes, text, u32_be};

/// `NFNL_SUBSYS_NFTABLES << 8` with the messages of `linux/netfilter/nf_tables.h`.
const GET_TABLE: u16 = 0x0a01;
const GET_CHAIN: u16 = 0x0a04;
const GET_RULE: u16 = 0x0a07;
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
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
/// Of an extension of iptables.
const TARGET_NAME: u16 = 1;
/// `NF_DROP`, as policy and as verdict.
const DROP: u32 = 0;
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

/// A chain that sees the packets of a hook.
struct BaseChain {
    family: u8,
    table: String,
    name: String,
    drops: bool,
}

/// Chains (as `table/chain`) on a hook that drop or refuse IPv4 traffic unless told otherwise, by their policy or by a
/// rule for everything that is left, as firewalld has. Our table cannot overrule them: every chain on a hook must
/// let a packet pass.
pub(crate) fn dropping_chains(socket: &mut Socket, wanted_hook: u32) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for chain in base_chains(socket, wanted_hook)? {
        if chain.drops || refuses_the_rest(socket, &chain)? {
            found.push(format!("{}/{}", chain.table, chain.name));
        }
    }
    Ok(found)
}

fn base_chains(socket: &mut Socket, wanted_hook: u32) -> io::Result<Vec<BaseChain>> {
    socket.dump(
        || Request::new(GET_CHAIN, DUMP, &[0, 0, 0, 0]),
        |answer| {
            let family = *answer.payload.first()?;
            let attributes = answer.payload.get(4..)?;
            let hook = attribute(attributes, CHAIN_HOOK)?;
            let number = attribute(hook, HOOK_NUMBER).and_then(u32_be)?;
            let policy = attribute(attributes, CHAIN_POLICY).and_then(u32_be)?;
            let is_meant = matches!(family, FAMILY_INET | FAMILY_IPV4) && number == wanted_hook;
            let table = text(attribute(attributes, CHAIN_TABLE)?);
            let name = text(attribute(attributes, CHAIN_NAME)?);
            is_meant.then_some(BaseChain { family, table, name, drops: policy == DROP })
        },
    )
}

/// Whether a rule of the chain lets nothing pass that comes to it.
fn refuses_the_rest(socket: &mut Socket, chain: &BaseChain) -> io::Result<bool> {
    let request = || {
        let request = Request::new(GET_RULE, DUMP, &[chain.family, 0, 0, 0]);
        request.put_text(RULE_TABLE, &chain.table).put_text(RULE_CHAIN, &chain.name)
    };
    let refusing = socket.dump(request, |answer| {
        let attributes = answer.payload.get(4..)?;
        // Old kernels list the rules of all chains.
        let is_of = |kind, name: &str| attribute(attributes, kind).is_some_and(|value| text(value) == name);
        let is_here = is_of(RULE_TABLE, &chain.table) && is_of(RULE_CHAIN, &chain.name);
        (is_here && refuses_everything(attribute(attributes, RULE_EXPRESSIONS)?)).then_some(())
    })?;
    Ok(!refusing.is_empty())
}

/// Whether a rule with these expressions has no condition and lets nothing pass.
fn refuses_everything(expressions: &[u8]) -> bool {
    for (_, expression) in attributes(expressions) {
        let Some(name) = attribute(expression, EXPRESSION_NAME).map(text) else { return false };
        let data = attribute(expression, EXPRESSION_DATA).unwrap_or_default();
        match name.as_str() {
            // They look at nothing.
            "counter" | "log" => {}
            "reject" => return true,
            // iptables with the rules of nftables.
            "target" => return attribute(data, TARGET_NAME).is_some_and(|name| text(name) == "REJECT"),
            "immediate" => return verdict(data) == Some(DROP),
            _ => return false,
        }
    }
    false
}

fn verdict(immediate: &[u8]) -> Option<u32> {
    let data = attribute(immediate, IMMEDIATE_DATA)?;
    attribute(attribute(data, DATA_VERDICT)?, VERDICT_CODE).and_then(u32_be)
}
