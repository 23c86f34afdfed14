//! Output of instances on request of the cluster.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use oak_link::BulkOffer;
use oak_model::InstanceKey;
use oak_model::message::LogSince;
use oak_runtime::{LogQuery, read_logs};

use crate::container::Places;

/// Which part of the output, and how.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) tail: Option<u32>,
    pub(crate) follow: bool,
    pub(crate) since: Option<LogSince>,
    pub(crate) timestamps: bool,
}

/// Answers a bulk request with the output of an instance.
pub(crate) async fn serve(offer: BulkOffer, key: InstanceKey, wanted: Wanted, places: Places) {
    let directory = places.log_directory(key);
    if !directory.exists() {
        return offer.refuse("the instance has no output on this worker yet");
    }
    let tail_lines = wanted.tail.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let since = wanted.since.map(moment);
    let query = LogQuery { tail_lines, since, follow: wanted.follow, timestamps: wanted.timestamps };
    let output = read_logs(directory, query).map(|piece| piece.map_err(|error| error.to_string()));
    let sent = match offer.accept().await {
        Ok(stream) => stream.send_all(output).await,
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::debug!(instance = %key, %error, "the reader of the output went away");
    }
}

/// The clock of this machine wrote the times of the lines, so it also tells what is so long ago.
fn moment(since: LogSince) -> SystemTime {
    match since {
        LogSince::AgoMs(ago) => {
            SystemTime::now().checked_sub(Duration::from_millis(ago)).unwrap_or(UNIX_EPOCH)
        }
        LogSince::AtMicros(at) => {
            UNIX_EPOCH.checked_add(Duration::from_micros(at)).unwrap_or_else(SystemTime::now)
        }
    }
}
