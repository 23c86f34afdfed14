//! A whole system in one process under virtual time: one root, clusters, workers, their disks, lossy links, processes
//! that come and go. Everything follows from one seed.

pub mod agenda;
pub mod chaos;
pub mod client;
pub mod delivery;
pub mod invariants;
pub mod link;
pub mod node;
pub mod runtime;
pub mod settled;
pub mod world;
