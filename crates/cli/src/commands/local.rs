//! `--local`: the cluster on this machine instead of a root.

use oak_client::{Client, Credentials};

use super::{EXIT_FAILURE, Failure};
use crate::config::{self, Sources};

/// A client of the cluster whose configuration and state are on this machine.
pub(super) fn client() -> Result<Client, Failure> {
    let loaded = config::load(&Sources::of_process(None, Vec::new()))?;
    let path = loaded.config.data_dir.join("cluster").join(oak_cluster::ACCESS_KEY_FILE);
    let key = std::fs::read_to_string(&path).map_err(|error| {
        Failure::new(EXIT_FAILURE, format!("cannot read the access key of the cluster in {}", path.display()))
            .cause(error.to_string())
            .hint("run this as root on the machine of the cluster; OAK_DATA_DIR names another data directory")
    })?;
    let port = loaded.config.cluster.listen.port();
    Ok(Client::new(&format!("http://127.0.0.1:{port}"), Credentials::new("Admin", key.trim()))?)
}
