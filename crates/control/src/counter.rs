//! Counters that continue above what a child has seen.

/// A child that claims to be further ahead than this is not believed: it could otherwise drive a counter to its end.
/// At a thousand changes a second a real counter needs 34 years for it, a lying child 16 million sessions to do harm.
pub(crate) const LARGEST_LEAP: u64 = 1 << 40;
