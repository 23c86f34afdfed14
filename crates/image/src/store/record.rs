//! What the store writes down: one small JSON file per image name, one per layer.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::image::ImageConfig;
use crate::reference::ImageReference;

/// Version of the files; a store of another version is emptied, since everything can be pulled again.
pub(super) const SCHEMA: u32 = 1;

/// Name of a layer directory: the digest of the layer's blob, or `local-` and a digest for layers built here, so that
/// no manifest from outside can name one of those.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct LayerKey(String);

const LOCAL_PREFIX: &str = "local-";

impl LayerKey {
    /// The layer in a blob.
    pub(super) fn of_blob(digest: &Digest) -> Self {
        Self(digest.hex().to_owned())
    }

    /// A layer built on this machine.
    pub(super) fn local(digest: &Digest) -> Self {
        Self(format!("{LOCAL_PREFIX}{}", digest.hex()))
    }

    /// File name; letters, digits and `-`.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LayerKey {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let hex = text.strip_prefix(LOCAL_PREFIX).unwrap_or(&text);
        match Digest::parse(&format!("sha256:{hex}")) {
            Ok(_) => Ok(Self(text)),
            Err(_) => Err("not the name of a layer"),
        }
    }
}

impl From<LayerKey> for String {
    fn from(key: LayerKey) -> Self {
        key.0
    }
}

/// An image name and what it stands for. Its file's modification time is the time of last use.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImageRecord {
    pub(super) schema: u32,
    pub(super) reference: ImageReference,
    pub(super) digest: Digest,
    /// Built here rather than pulled.
    pub(super) is_local: bool,
    /// Layers to stack, lowest first.
    pub(super) layers: Vec<LayerKey>,
    pub(super) config: ImageConfig,
    /// The manifest as the registry sent it, whose digest is `digest`.
    pub(super) manifest: String,
    /// The configuration as the registry sent it.
    pub(super) source_config: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_key_cannot_be_a_path() {
        let digest = Digest::of(b"x");
        for key in [LayerKey::of_blob(&digest), LayerKey::local(&digest)] {
            assert_eq!(LayerKey::try_from(String::from(key.clone())), Ok(key));
        }
        for text in
            ["", "..", "local-", "local-../x", &digest.to_string(), &format!("local-local-{}", digest.hex())]
        {
            assert!(LayerKey::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
