//! How far other nodes are, for services whose callers want the closest instance.

use std::sync::Arc;
use std::time::Duration;

use oak_model::WorkerId;
use oak_store::StoreError;
use tracing::debug;

use crate::operations::Operations;

/// Between two measurements of a node. Three of them decide, so a change is followed within little more than a second.
const INTERVAL: Duration = Duration::from_millis(300);

/// Measures for ever, as long as something depends on it.
pub(crate) async fn run(operations: Arc<Operations>) -> Result<(), StoreError> {
    let mut tables = operations.network.tables();
    loop {
        let wanted = tables.borrow_and_update().1.measured.clone();
        if wanted.is_empty() {
            if tables.changed().await.is_err() {
                return Ok(());
            }
            continue;
        }
        let Some(network) = operations.network.opened().await else {
            tokio::time::sleep(INTERVAL).await;
            continue;
        };
        let measured = match network.round_trips(wanted.values().copied().collect(), INTERVAL).await {
            Ok(measured) => measured,
            Err(error) => {
                debug!(%error, "round trips to other nodes cannot be measured");
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
        };
        drop(network);
        let of = |address| wanted.iter().find(|(_, gateway)| **gateway == address).map(|(worker, _)| *worker);
        let measured: Vec<(WorkerId, Option<u32>)> = (measured.into_iter())
            .filter_map(|(address, time)| Some((of(address)?, time.map(microseconds))))
            .collect();
        if !measured.is_empty() {
            operations.post(move |worker, _, _| worker.round_trips(&measured)).await;
        }
    }
}

fn microseconds(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
