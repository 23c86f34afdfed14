//! What one worker says to a request.

use oak_model::{Resources, WorkerId};

use crate::Reason;

/// What one worker says to a request, with the numbers the choice is made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The worker.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Every rule it fails; empty when it can take the instance.
    pub reasons: Vec<Reason>,
    /// All that may be reserved; CPU with its overcommitment.
    pub capacity: Resources,
    /// What of that is free.
    pub free: Resources,
    /// Instances on it.
    pub instances: u32,
    /// Those of the same service: fewer win.
    pub of_service: u32,
    /// Reserved share, thousandths, of memory or CPU, whichever is larger: less wins among equals.
    pub commitment: u32,
    /// Weight of the preferences it breaks, thousandths: less wins before everything else.
    pub penalty: u32,
}
