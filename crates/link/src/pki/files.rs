//! Reading and atomically replacing the files of a node's identity directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Names of the files in an identity directory.
pub(crate) mod names {
    /// Private key of the node.
    pub(crate) const KEY: &str = "key.pem";
    /// Certificate chain of the node, leaf first. Written last when enrolling: if it is there, all is there.
    pub(crate) const CHAIN: &str = "cert.pem";
    /// The root authority.
    pub(crate) const ROOT: &str = "ca.pem";
    /// Private key of the authority this node runs (root and clusters).
    pub(crate) const AUTHORITY_KEY: &str = "authority-key.pem";
    /// Chain of the authority this node runs, its own certificate first.
    pub(crate) const AUTHORITY: &str = "authority.pem";
    /// Public part of the token it joined with.
    pub(crate) const TOKEN: &str = "token";
}

/// Our files are a few kB; more means it is not ours.
const MAX_FILE: u64 = 256 * 1024;

/// Reads a small text file; `None` if there is none.
pub(crate) fn read(dir: &Path, name: &str) -> io::Result<Option<String>> {
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too large"));
    }
    Ok(Some(text))
}

/// Replaces a file so that a crash leaves the old or the new content, readable by the owner only.
pub(crate) fn write(dir: &Path, name: &str, content: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // One process owns the directory, so a fixed name is enough and a left-over is simply overwritten.
    let temporary = dir.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Removes a file; it is fine if there is none.
pub(crate) fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Ok(()) => File::open(dir)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads all certificates of a PEM text.
pub(crate) fn read_chain(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().ok()?;
    if chain.is_empty() { None } else { Some(chain) }
}

/// Writes certificates as a PEM text.
pub(crate) fn write_chain(chain: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<_> = chain.iter().map(|der| pem::Pem::new("CERTIFICATE", der.to_vec())).collect();
    pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}
