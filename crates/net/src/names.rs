//! Names and addresses that follow from an instance id: nothing here is stored, so a restarted agent
//! finds its devices again by computing the same names.

use std::net::Ipv4Addr;

use crate::error::NetworkError;

/// Longest gateway device name: it must leave eight digits of the 15 bytes of a device name.
pub(crate) const MAX_BRIDGE_NAME: usize = 6;
/// `IFNAMSIZ` without the terminating zero.
const MAX_DEVICE_NAME: usize = 15;
/// Longest instance id we store.
const MAX_ID: usize = 128;

/// Checks an instance id: it is stored in files and shown in device aliases.
pub(crate) fn check_id(id: &str) -> Result<(), NetworkError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(is_plain) {
        return Err(NetworkError::InvalidId { id: id.chars().take(MAX_ID).collect() });
    }
    Ok(())
}

/// Ten hexadecimal digits for an id. Collisions are possible (40 bits) and detected by the caller,
/// which finds another id in the record of that name.
pub(crate) fn short_id(id: &str) -> String {
    // FNV-1a, folded: stable across versions, which `std`'s hasher does not promise.
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{:010x}", (hash ^ (hash >> 40)) & 0xff_ffff_ffff)
}

/// Whether a file or device name part could have come from [`short_id`].
pub(crate) fn is_short_id(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What every host-side device name of this node starts with.
pub(crate) fn device_prefix(bridge: &str) -> String {
    format!("{bridge}-")
}

/// Name of the host end of an instance's veth pair.
pub(crate) fn device_name(bridge: &str, short_id: &str) -> String {
    let mut name = device_prefix(bridge);
    let room = MAX_DEVICE_NAME.saturating_sub(name.len());
    name.extend(short_id.chars().take(room));
    name
}

/// Name of the device to nodes that encrypt; whoever encrypts makes it. Not one of [`device_prefix`]'s: rules
/// tell them apart.
#[must_use]
pub fn encrypted_name(bridge: &str) -> String {
    format!("{bridge}e")
}

/// Name of the device by which the kernel itself encrypts; whoever encrypts makes it, and leads packets to it instead.
#[must_use]
pub fn kernel_name(bridge: &str) -> String {
    format!("{bridge}w")
}

/// Name of the device to nodes that are sent plain packets over IPv4.
#[must_use]
pub fn plain_name(bridge: &str) -> String {
    format!("{bridge}t")
}

/// Name of the device to nodes that are sent plain packets over IPv6.
#[must_use]
pub fn plain6_name(bridge: &str) -> String {
    format!("{bridge}v")
}

/// Names of all devices to other nodes.
pub(crate) fn tunnel_names(bridge: &str) -> [String; 4] {
    [encrypted_name(bridge), kernel_name(bridge), plain_name(bridge), plain6_name(bridge)]
}

/// Name of the device to which packets to unknown addresses go.
pub(crate) fn parking_name(bridge: &str) -> String {
    format!("{bridge}u")
}

/// Locally administered MAC address that follows from an IPv4 address.
///
/// Both ends know each other's address without asking, so no ARP is needed at all.
pub(crate) fn mac(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6f, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_and_differ_for_ids_that_differ_at_the_end() {
        let one = device_name("oak0", &short_id("shop.web.instance.1"));
        let two = device_name("oakest", &short_id("shop.web.instance.2"));
        assert_eq!(one.len(), MAX_DEVICE_NAME);
        assert_eq!(two.len(), MAX_DEVICE_NAME);
        assert_ne!(short_id("shop.web.instance.1"), short_id("shop.web.instance.2"));
    }

    #[test]
    fn devices_of_the_node_are_not_taken_for_an_instance() {
        for name in [plain_name, plain6_name, encrypted_name, kernel_name, parking_name] {
            assert!(!name("oak0").starts_with(&device_prefix("oak0")));
            assert!(name("oakest").len() <= MAX_DEVICE_NAME);
        }
    }

    #[test]
    fn short_ids_never_change_between_versions() {
        assert_eq!(short_id("a"), "4c86ae8f50");
        assert!(is_short_id(&short_id("anything")));
        assert!(!is_short_id("../etc/pass"));
    }

    #[test]
    fn ids_that_are_not_plain_words_are_refused() {
        assert!(check_id("app.ns.web.ns.instance.0").is_ok());
        assert!(check_id("0190c2f4-9f3e-7a51").is_ok());
        for id in ["", "a b", "a/b", "ä", "a\0", &"x".repeat(129)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn mac_addresses_are_local_and_unicast() {
        let [first, ..] = mac(Ipv4Addr::new(10, 18, 0, 2));
        assert_eq!(first & 0b11, 0b10);
    }
}
